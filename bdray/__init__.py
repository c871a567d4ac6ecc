"""bdray evaluates backdoor attacks and defenses on deep networks, from one experiment to a cluster-wide sweep."""

__version__ = "0.1.0"

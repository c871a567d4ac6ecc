"""Files that start a cluster, checked before anything is started: for `ray up`, and for KubeRay.

bdray cluster check cluster.yaml
bdray cluster check deploy/rayjob.yaml
"""

from bdray.launch.cluster.checking import check

__all__ = ["check"]

"""What a disk, a network or a bucket refuses, as one sentence with the cure; nothing in it is secret, or moves a terminal."""

import errno
import re
from urllib.parse import unquote

from bdray.spec import BadInput
from bdray.wording import printable

CURES = (
    (
        r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|PERMISSION_DENIED|HTTP status 40[13]|[Cc]redential|[Tt]oken|Forbidden",
        "give credentials that may list, read, write and delete there, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a "
        "profile or a role do on S3",
    ),
    (
        r"NETWORK_CONNECTION|UNAVAILABLE|curl|[Tt]ime(d )?out|[Cc]onnect|resolve",
        "check the network and the address (endpoint_override=HOST:PORT in the URI, or AWS_ENDPOINT_URL, where it is not "
        "the provider's own)",
    ),
    (r"NO_SUCH_BUCKET|[Bb]ucket .* not found|no bucket", "create the bucket, or name another with --store"),
)
"""What is in the words of pyarrow's file systems, and what helps."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Refused(BadInput):
    """The store does not take, or give, what it should: nothing else can be done with it, and no experiment is to blame."""


def refusal(verb: str, uri: str, error: Exception) -> Refused:
    """`cannot <verb> the store <uri>: <why>; <cure>`."""
    why = getattr(error, "strerror", None) or first_line(error)
    cure = "name a writable folder or bucket with --store"
    if getattr(error, "errno", None) in FULL:
        cure = "free some space there, or name another folder or bucket with --store"
    cure = next((cure for words, cure in CURES if re.search(words, str(why))), cure)
    return Refused(f"cannot {verb} the store {shown(uri)!r}: {without_secrets(printable(str(why)), uri)}; {cure}")


def first_line(error: BaseException) -> str:
    """What a library says of an error, without the lines that follow and the numbers that only its server knows."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    line = re.sub(r" \(Request ID: [^)]*\)| error_info=.*", "", line)
    return line if len(line) < 300 else f"{line[:300]}…"


PUBLIC = {
    "allow_bucket_creation",
    "allow_bucket_deletion",
    "allow_delayed_open",
    "background_writes",
    "endpoint_override",
    "region",
    "retry_limit_seconds",
    "scheme",
}
"""What an URI may say after its question mark and be shown; of anything else only the name is, whatever its value is for."""
USERS = ("abfs", "abfss", "ftp", "sftp", "ssh")
"""Kinds of URI whose part before an @ is a container or a login, not a key, where it has no colon."""
_HEAD = re.compile(r"([A-Za-z][\w+.:-]*?):/{1,3}")
_URI = re.compile(r"[A-Za-z][\w+.-]*(?:::[A-Za-z][\w+.-]*)*://[^\s'\"<>]+")


def shown(uri: str) -> str:
    """An URI as it may be printed, logged and stored: without user, password, key or token. A path stands as it is."""
    return _split(uri)[0]


def without_secrets(text: str, uri: str = "") -> str:
    """A text in which every URI is as it may be `shown`, and in which nothing stands that is left out of this one."""
    safe, secrets = _split(uri)
    for part, instead in ((uri, safe), *((secret, "…") for secret in secrets)):
        if len(part) > 2:
            text = text.replace(part, instead)
    return _URI.sub(lambda found: shown(found[0]), text)


def _split(uri: str) -> tuple[str, list[str]]:
    """What of an URI may be shown, and what of it may not, the longest first."""
    head = _HEAD.match(uri)
    if not head:
        return uri, []
    rest = uri[head.end() :]
    place, mark, query = rest.partition("?")
    host, _, port = place.partition("/")[0].rpartition(":")
    if "@" in query and "@" not in place and host and not port.isdigit():  # a secret with a question mark in it
        place, mark, query = rest, "", ""
    user, at, place = place.rpartition("@")  # a secret may have a slash in it, and an @
    place, _, fragment = place.partition("#")
    hidden = [user, *user.split(":"), fragment]
    if at and ":" not in user and head[1].rpartition(":")[2] in USERS:
        hidden, place = [fragment], f"{user}@{place}"
    pieces = []
    for piece in query.split("&") if query else ():
        name, given, value = piece.partition("=")
        if not (name in PUBLIC and re.fullmatch(r"[\w.:/%-]*", value)):
            hidden.append(value if given else name)
            piece = f"{name}=…" if given else "…"
        pieces.append(piece)
    secrets = {text for part in hidden for text in (part, unquote(part)) if text}
    return head[0] + place + mark + "&".join(pieces), sorted(secrets, key=len, reverse=True)

"""The types of the documents that devices get (DDI), for the description of the API. `documents` makes them."""

from typing import Literal, NotRequired, TypedDict

Handling = Literal["skip", "attempt", "forced"]
Window = Literal["available", "unavailable"]


class LinkDocument(TypedDict):
    """A link."""

    href: str


class PollingDocument(TypedDict):
    """`sleep` is the time until the next poll: HH:MM:SS, or ISO 8601 from a day on."""

    sleep: str


class ConfigDocument(TypedDict):
    """How a device polls."""

    polling: PollingDocument


class PollLinks(TypedDict):
    """What a device has to do. At most one of the first three exists."""

    deploymentBase: NotRequired[LinkDocument]
    cancelAction: NotRequired[LinkDocument]
    confirmationBase: NotRequired[LinkDocument]
    installedBase: NotRequired[LinkDocument]
    configData: NotRequired[LinkDocument]
    request: NotRequired[LinkDocument]


class PollDocument(TypedDict):
    """The answer to a poll."""

    config: ConfigDocument
    _links: PollLinks


class HashesDocument(TypedDict):
    """Digests in hexadecimal."""

    sha1: str
    md5: str
    sha256: str


class ArtifactLinks(TypedDict):
    """Where a file and its digest are."""

    download: LinkDocument
    md5sum: LinkDocument


class ArtifactDocument(TypedDict):
    """A file of a bundle. `size` is in bytes."""

    filename: str
    hashes: HashesDocument
    size: int
    _links: ArtifactLinks


class ChunkDocument(TypedDict):
    """A bundle."""

    part: str
    name: str
    version: str
    artifacts: list[ArtifactDocument]


class UpdateDocument(TypedDict):
    """How a bundle has to be installed."""

    download: Handling
    update: Handling
    maintenanceWindow: NotRequired[Window]
    chunks: list[ChunkDocument]


class HistoryDocument(TypedDict):
    """What was reported about an action, the newest message first."""

    status: str
    messages: list[str]


class DeploymentDocument(TypedDict):
    """An update."""

    id: str
    deployment: UpdateDocument
    actionHistory: NotRequired[HistoryDocument]


class ConfirmationDocument(TypedDict):
    """An update that waits for a confirmation."""

    id: str
    confirmation: UpdateDocument


class AutoConfirmDocument(TypedDict):
    """Whether updates are confirmed automatically."""

    active: bool


class ConfirmationLinks(TypedDict):
    """The update that waits, if there is one, and where automatic confirmation is switched on or off."""

    confirmationBase: NotRequired[LinkDocument]
    activateAutoConfirm: NotRequired[LinkDocument]
    deactivateAutoConfirm: NotRequired[LinkDocument]


class ConfirmationsDocument(TypedDict):
    """Confirmations of a device."""

    autoConfirm: AutoConfirmDocument
    _links: ConfirmationLinks


class RequestDocument(TypedDict):
    """A signed request of an operator, as PEM."""

    id: str
    request: str


class RefusalDocument(TypedDict):
    """Why a request is refused, in hawkBit's form."""

    exceptionClass: str
    errorCode: str
    message: str
    info: dict[str, str]


class StopDocument(TypedDict):
    """The id of the action to cancel."""

    stopId: str


class CancellationDocument(TypedDict):
    """The order to cancel an action."""

    id: str
    cancelAction: StopDocument

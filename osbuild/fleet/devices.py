"""Devices that the update server knows."""

import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import (
    JSON,
    BigInteger,
    Connection,
    String,
    bindparam,
    cast,
    column,
    func,
    insert,
    literal,
    select,
    update,
)

from osbuild.fleet.names import RULE, is_safe_name
from osbuild.fleet.prepared_read import PreparedRead
from osbuild.fleet.refusal import Refused
from osbuild.fleet.tables import LONGEST_ID, devices
from osbuild.fleet.tokens import hash_token

MOST_ATTRIBUTES = 100
LONGEST_ATTRIBUTE = 128
"""the length of the longest name and of the longest value, in characters"""
decode_texts = msgspec.json.Decoder(dict[str, str]).decode
TAG = re.compile(r"[A-Za-z0-9._-]{1,64}")
BY_NAME = PreparedRead(select(devices).where(devices.c.name == bindparam("device_name")))


class AttributeMode(StrEnum):
    """What new attributes do to older ones (DDI, `configData`)."""

    merge = "merge"  # an attribute without a value removes the older one
    overwrite = "replace"
    remove = "remove"


@dataclass(frozen=True)
class FleetDevice:
    """A row of the table `devices`."""

    id: int
    name: str
    created: int
    enrolled: int | None
    enrolment_token: int | None
    key_hash: bytes | None
    decommissioned: int | None
    last_seen: int | None
    address: str | None
    token_hash: bytes | None
    attributes: Mapping[str, str]
    attributes_wanted: bool
    auto_confirm: bool
    installed_action: int | None
    tags: Mapping[str, str] = field(default_factory=dict)
    open_request: int | None = None

    def accepts_token(self, token: str) -> bool:
        """Whether `token` is the device's own token."""
        return self.token_hash is not None and hmac.compare_digest(self.token_hash, hash_token(token))


def check_name(name: str) -> None:
    """Raise `Refused` if no device can have this name."""
    if len(name) > LONGEST_ID or not is_safe_name(name):
        message = f"the id of a device has 1 to {LONGEST_ID} printable characters, {RULE}"
        raise Refused(400, "bad-device-id", message)


def find_device(connection: Connection, name: str) -> FleetDevice | None:
    """Return the device `name`, None if it is unknown."""
    values = BY_NAME.first(connection, device_name=name)
    return None if values is None else _device(values)


def read_device_name(connection: Connection, number: int) -> str:
    """Return the name of the device with the id `number`, which exists."""
    return str(connection.execute(select(devices.c.name).where(devices.c.id == number)).scalar_one())


def list_devices(connection: Connection, after: str = "", most: int | None = None) -> list[FleetDevice]:
    """Return the devices in use whose names are greater than `after`, by name: all, or at most `most`."""
    chosen = select(devices).where(devices.c.name > after, devices.c.decommissioned.is_(None))
    return [_device(row) for row in connection.execute(chosen.order_by(devices.c.name).limit(most)).mappings()]


def decommission_device(connection: Connection, device: FleetDevice, now: int) -> None:
    """Accept a device no more, until it enrols again. The caller revokes its certificates."""
    values = {"decommissioned": now, "token_hash": None}
    connection.execute(update(devices).where(devices.c.id == device.id).values(values))


def register_device(connection: Connection, name: str, now: int, token: str | None = None) -> FleetDevice:
    """Return the device `name`, which is created if it is unknown. `token` becomes its own token. Raises `Refused`."""
    check_name(name)
    device = find_device(connection, name)
    digest = None if token is None else hash_token(token)
    if device is None:
        values = {"name": name, "created": now, "token_hash": digest}
        connection.execute(insert(devices).values(values))
        device = find_device(connection, name)
        assert device is not None
    elif digest is not None:
        if device.decommissioned is not None:
            message = f"the device {name} is decommissioned, and needs an enrolment token that is only for its name"
            raise Refused(409, "decommissioned", message)
        connection.execute(update(devices).where(devices.c.id == device.id).values(token_hash=digest))
        device = replace(device, token_hash=digest)
    return device


def change_attributes(
    connection: Connection, device: FleetDevice, mode: AttributeMode, changes: Mapping[str, str | None]
) -> None:
    """Change what a device says about itself. Raises `Refused` if there would be too much of it."""
    for name, value in changes.items():
        if not 0 < len(name) <= LONGEST_ATTRIBUTE or len(value or "") > LONGEST_ATTRIBUTE:
            message = f"names of attributes have 1 to {LONGEST_ATTRIBUTE} characters, values at most as many"
            raise Refused(400, "bad-attribute", message)
    attributes = {} if mode is AttributeMode.overwrite else dict(device.attributes)
    for name, value in changes.items():
        if mode is AttributeMode.remove or value is None:
            attributes.pop(name, None)
        else:
            attributes[name] = value
    if len(attributes) > MOST_ATTRIBUTES:
        raise Refused(429, "too-many-attributes", f"a device has at most {MOST_ATTRIBUTES} attributes")
    # As in hawkBit, a device that only removes attributes has not said what it is.
    wanted = device.attributes_wanted and mode is AttributeMode.remove
    values = {"attributes": json.dumps(attributes), "attributes_wanted": wanted}
    connection.execute(update(devices).where(devices.c.id == device.id).values(values))


def change_tags(connection: Connection, device: FleetDevice, changes: Mapping[str, str | None]) -> Mapping[str, str]:
    """Set tags of a device, remove those without a value, and return all. Raises `Refused` if there are too many."""
    tags = dict(device.tags)
    for name, value in changes.items():
        if not TAG.fullmatch(name) or (value is not None and not 0 < len(value) <= LONGEST_ATTRIBUTE):
            message = (
                f"a tag is KEY=VALUE: a key of letters, digits, `-`, `_` and `.`, a value of 1 to {LONGEST_ATTRIBUTE}"
            )
            raise Refused(400, "bad-tag", f"{message} characters")
        if value is None:
            tags.pop(name, None)
        else:
            tags[name] = value
    if len(tags) > MOST_ATTRIBUTES:
        raise Refused(409, "too-many-tags", f"a device has at most {MOST_ATTRIBUTES} tags")
    connection.execute(update(devices).where(devices.c.id == device.id).values(tags=json.dumps(tags)))
    return tags


def record_contacts(connection: Connection, contacts: Mapping[int, tuple[int, str]]) -> None:
    """Store when devices, by id, were last seen, and from which address."""
    # One statement, with a list in JSON: for a statement per device, the thread would have to get Python's lock again
    # after each of 50,000 rows, and would keep the thread that answers polls from its work.
    values = [(device, time, address) for device, (time, address) in contacts.items()]
    text = literal(msgspec.json.encode(values).decode(), String)
    if connection.dialect.name == "sqlite":
        contact = func.json_each(text).table_valued(column("value", JSON)).c.value
    else:
        contact = func.json_array_elements(cast(text, JSON)).table_valued(column("value", JSON)).c.value
    seen, address = cast(contact[1].as_string(), BigInteger), contact[2].as_string()
    chosen = devices.c.id == cast(contact[0].as_string(), BigInteger)
    connection.execute(update(devices).where(chosen).values(last_seen=seen, address=address))


def _device(values: Mapping[Any, Any]) -> FleetDevice:
    return FleetDevice(
        **{**values, "attributes": decode_texts(values["attributes"]), "tags": decode_texts(values["tags"])}
    )

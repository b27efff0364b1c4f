"""Problems of messages in people's words, and of signatures."""

from pathlib import Path

import msgspec
import pytest

from osbuild.fleet.bundle_check import check_bundle
from osbuild.fleet.management.messages import NewAccessToken, NewAction, NewRequest, NewRollout
from osbuild.fleet.refusal import Refused
from osbuild.fleet.request_body import decode_json
from osbuild.keys.authority import PrivateKeyAccess, create_keys
from osbuild.keys.key_folder import load_keys
from tests.support.signed_bundles import make_bundle


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        (NewAccessToken, b'{"name": "a b", "role": "viewer"}', "`name` has characters that it must not have"),
        (NewAccessToken, b'{"name": "a"}', "the body lacks the field `role`"),
        (NewAccessToken, b'{"name": "a", "role": "viewer", "x": 1}', "the body has the unknown field `x`"),
        (NewRequest, b'{"kind": "reboot", "seconds": 1}', "`seconds` must be at least 60"),
        (NewRequest, b'{"kind": "explode"}', "`kind` must not be 'explode'"),
        (NewAction, b'{"bundle": "one"}', "`bundle` must be a whole number, and is a text"),
        (NewRollout, b'{"name": "a", "bundle": 1, "groups": [{"count": 1.5}]}', "`groups[0].count` must be a whole"),
        (NewAction, b"[]", "the body must be an object, and is a list"),
        (NewAction, b"", "the body can't be read as JSON: input data was truncated"),
        (NewAction, b"{", "the body can't be read as JSON: input data was truncated"),
    ],
)
def test_a_wrong_message_is_described_for_people(kind: type[msgspec.Struct], body: bytes, message: str) -> None:
    with pytest.raises(Refused) as caught:
        decode_json(body, kind)
    assert caught.value.message.startswith(message)
    assert "Expected" not in caught.value.message and "regex" not in caught.value.message


def test_a_bundle_of_other_keys_is_refused_without_texts_of_openssl(tmp_path: Path) -> None:
    for name in ("own", "other"):
        create_keys(tmp_path / name, name, PrivateKeyAccess())
    keyring = tmp_path / "keyring.pem"
    keyring.write_bytes(load_keys(tmp_path / "own").keyring())
    bundle = tmp_path / "one.raucb"
    content = make_bundle(bundle, load_keys(tmp_path / "other"), "1.0.0")
    with pytest.raises(Refused, match="no certificate of the server's keyring has signed this bundle") as caught:
        check_bundle(bundle, keyring)
    assert ":error:" not in caught.value.message and "CMS" not in caught.value.message
    size = int.from_bytes(content[-8:], "big")
    bundle.write_bytes(content[: -8 - size] + bytes(size) + content[-8:])
    with pytest.raises(Refused, match="the signature of the bundle is damaged") as caught:
        check_bundle(bundle, keyring)
    assert ":error:" not in caught.value.message

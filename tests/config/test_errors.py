"""A wrong profile gives exactly one error: where it is, what was found, what was expected, and what to write."""

import base64
from pathlib import Path

import pytest

from osbuild.config.load import find_profile, load_profile
from osbuild.shared.errors import Error, UsageError

HEAD = "name: node\nversion: 1.0.0\n"
BLOB = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(32)).decode()
MANY_ATTRIBUTES = f"agent: {{attributes: {{{', '.join(f'a{number}: x' for number in range(61))}}}}}"
KEY = f"ssh-ed25519 {BLOB} someone@example"

# what follows HEAD (so its first line is line 3), position, parts of the message, part of the hint
WRONG: list[tuple[str, str, tuple[str, ...], str]] = [
    # keys
    ("pakages: [vim]", "3:1", ("unknown key `pakages`",), "did you mean `packages`?"),
    ("kernel:\n  flavor: cloud", "4:3", ("unknown key `flavor` in `kernel`",), "did you mean `flavour`?"),
    ("token: file:t", "3:1", ("unknown key `token`",), "did you mean `kubernetes.token`?"),
    ("users:\n- name: a\n  ssh-keys: []", "5:3", ("`ssh-keys` in `users[0]`",), "did you mean `ssh_keys`?"),
    ("zzzzzz: 1", "3:1", ("unknown key `zzzzzz`",), "known keys here: name, version"),
    ("extend: minimal", "3:1", ("unknown key `extend`",), "did you mean `extends`?"),
    ("packages: [vim]\npackages: [nano]", "4:1", ("key `packages` twice",), "also in line 3"),
    ("1: x", "3:1", ("the number `1` as a key",), 'write "1" in quotes'),
    ("kernel:\n  sysctls:\n    on: 1", "5:5", ("the boolean `on` as a key",), 'write "on" in quotes'),
    ("? [a]\n: b", "3:3", ("a list or mapping as a key",), "check"),
    ("packages: [vim]\npackages+: [nano]", "4:1", ("both `packages` and `packages+`",), "append"),
    ("hostname+: a", "3:1", ("nothing to append to",), "`hostname` is not a list"),
    ("users:\n- name: a\n  groups+: [b]", "5:3", ("nothing to append to",), "items of a list are not merged"),
    ("kubernetes:\n  config: {a: [1], a+: [2]}", "4:20", ("both `a` and `a+`",), "append"),
    # YAML
    ("kernel:\n\tflavour: cloud", "4:1", ("a tab", "spaces"), "indent with spaces"),
    ("packages: &p [vim]", "3:11", ("anchor or alias (`&`)",), "`extends`"),
    ("packages: *p", "3:11", ("anchor or alias (`*`)",), "`extends`"),
    ("<<: {packages: [vim]}", "3:1", ("merge key",), "`extends`"),
    ("packages: !!python/name:os.system [x]", "3:11", ("a tag (`!`)",), "remove the tag"),
    ("hostname: *hunter2", "3:11", ("anchor or alias (`*`)",), "`extends`"),
    ("hostname: !hunter2", "3:11", ("a tag (`!`)",), "quotes"),
    ("hostname: !!str 5", "3:11", ("a tag (`!`)",), "quotes"),
    ("packages: [vim", "4:1", ("expected ',' or ']'",), "brackets"),
    ("hostname: a: b", "3:12", ("a second `:`",), "in quotes"),
    ("packages\nhostname: a", "3:1", ("a line without `:`",), "add the colon"),
    ('hostname: "a', "4:1", ("end of stream",), "quotes"),
    ("hostname: @a", "3:11", ("cannot start any token",), "in quotes"),
    ("---\nname: b", "3:1", ("a second document",), "---"),
    ("hostname: " + "[" * 100, "3:42", ("more than 32 levels",), "brackets"),
    ('description: "\\ud800"', "3:14", ("surrogate",), "character itself"),
    ('description: "\\UFFFFFFFF"', "3:17", ("not valid YAML",), "escapes"),
    # kinds of values
    ("hostname: yes", "3:11", ("the boolean `yes`", "expected a text"), 'write "yes" in quotes'),
    ("hostname: 12", "3:11", ("the number `12`", "expected a text"), 'write "12" in quotes'),
    ("hostname: 2024-01-01", "3:11", ("the date `2024-01-01`",), "in quotes"),
    ("hostname: [a]", "3:11", ("a list for `hostname`", "expected a text"), "one value"),
    ("packages: vim", "3:11", ("`vim` for `packages`", "expected a list"), "`[vim]`"),
    ("packages: {vim: 1}", "3:11", ("a block of keys", "expected a list"), "as a list"),
    ("users: [bob]", "3:9", ("`bob` for `users[0]`", "a block of keys"), "lines below"),
    ("users:\n  name: bob", "4:3", ("a block of keys for `users`", "expected a list"), "`- `"),
    ("users:\n- sudo: true", "4:3", ("no `name` in this item of `users`",), "write `name:`"),
    ("kernel:", "3:8", ("nothing for `kernel`", "a block of keys"), "or remove it"),
    ("kernel: cloud", "3:9", ("`cloud` for `kernel`", "a block of keys"), "lines below"),
    ("agent:\n  offline: yes", "4:12", ("the boolean `yes`", "`true` or `false`"), "write `true`"),
    ("agent:\n  offline: 0", "4:12", ("the number `0`",), "write `false`"),
    ('agent:\n  offline: "true"', "4:12", ("`true` for",), "write `true`"),
    ("health:\n  deadline: 10", "4:13", ("a number from 30 to 86400",), "write 30"),
    ("health:\n  deadline: 0600", "4:13", ("whole decimal number",), "without a leading zero"),
    ("health:\n  deadline: 1:30", "4:13", ("the number `1:30`",), "digits"),
    ("health:\n  deadline: 600s", "4:13", ("`600s`", "number"), "remove the quotes and every unit"),
    ("health:\n  deadline: " + "9" * 5000, "4:13", ("whole decimal number",), "digits"),
    ("kernel:\n  sysctls:\n    net.ipv4.ip_forward: yes", "5:26", ("the boolean `yes`",), "write 1"),
    ("kernel:\n  sysctls: {ip_forward: 1}", "4:13", ("the name `ip_forward`",), "spelling"),
    ("kubernetes:\n  labels: {zone: 1}", "4:18", ("the number `1`",), 'write "1" in quotes'),
    ("kubernetes:\n  config: {a: .inf}", "4:15", ("a decimal number",), "in quotes"),
    ("kubernetes:\n  config: {a: 2024-01-01}", "4:15", ("the date",), "in quotes"),
    ("kubernetes:\n  config: {a: on}", "4:15", ("the boolean `on`",), "write `true`"),
    # sizes
    ("disk:\n  slot: 512", "4:9", ("the number `512`", "MiB or GiB"), "write `512 MiB`"),
    ("disk:\n  slot: 512M", "4:9", ("`512M`",), "write `512 MiB`"),
    ("disk:\n  slot: 1.5 GiB", "4:9", ("`1.5 GiB`",), "write `1536 MiB`"),
    ("disk:\n  slot: 2 GB", "4:9", ("`2 GB`",), "write `2 GiB`"),
    ("disk:\n  slot: -1 GiB", "4:9", ("`-1 GiB`",), "write `512 MiB` or `2 GiB`"),
    ("disk:\n  slot: [1 GiB]", "4:9", ("a list", "a size"), "write"),
    ("update:\n  snapshot_space: 1 MiB", "4:19", ("found 1 MiB for `update.snapshot_space`",), "write `16 MiB`"),
    ("disk:\n  esp: 1 MiB", "4:8", ("found 1 MiB for `disk.esp`", "at least 64 MiB"), "write `64 MiB`"),
    # choices and forms
    ("kubernetes:\n  role: sever", "4:9", ("`sever`", "server, agent or none"), "did you mean `server`?"),
    ("kubernetes:\n  role: worker", "4:9", ("`worker`",), "did you mean `agent`?"),
    ("kubernetes:\n  role: 5x", "4:9", ("`5x`", "server, agent or none"), "role of the node"),
    ("kubernetes:\n  if_unavailable: k3s", "4:19", ("`k3s`", "`upstream`"), "instead"),
    ("architecture: amd64", "3:15", ("`amd64`", "x86_64, arm64 or armv7"), "did you mean `x86_64`?"),
    ("hostname: Über", "3:11", ("`Über`", "lower-case"), "host name"),
    ("hostname: a\x7fb", "3:12", ("U+007F",), "remove it"),
    ("packages: [Vim]", "3:12", ("`Vim`", "Debian package"), "`packages[0]` is"),
    ('kernel:\n  arguments: ["a\\nb"]', "4:15", ("`a·b`",), "`kernel.arguments[0]` is"),
    ("network:\n  interfaces:\n  - {name: a, mac: '52:54:00'}", "5:20", ("six bytes",), "hardware address"),
    ("network:\n  interfaces:\n  - {name: a, mac: 12:34:56:10:20:30}", "5:20", ("the number",), "in quotes"),
    ("kubernetes:\n  version: 1.36.3", "4:12", ("`1.36.3`", "`v1.36.3`"), "release"),
    ("kubernetes:\n  server: http://a:6443", "4:11", ("`http://a:6443`", "https://"), "URL of the server"),
    ("kubernetes:\n  taints: [gpu]", "4:12", ("`gpu`", "`key=value:effect`"), "taints"),
    # values that are wrong together
    ("kubernetes:\n  version: v1.36.3", "4:12", ("not a K3s release", "k3s"), "`v1.36.3+k3s1`"),
    (
        "kubernetes:\n  distribution: upstream\n  version: v1.35.0+k3s1",
        "5:12",
        ("a K3s release", "upstream"),
        "`v1.35.0`",
    ),
    (
        "kubernetes:\n  distribution: upstream\n  if_unavailable: upstream",
        "4:17",
        ("`if_unavailable`",),
        "if_unavailable: null",
    ),
    (
        "kubernetes:\n  distribution: upstream\n  version: v1.36.99",
        "5:12",
        ("`v1.36.99`", "cannot build"),
        "v1.36.3",
    ),
    (f"kubernetes:\n  version: v1.40.0+k3s1\n  sha256: {{amd64: {'a' * 64}}}", "5:19", ("`amd64`",), "`x86_64`"),
    (
        "kubernetes:\n  version: v1.40.0+k3s1\n  sha256: {x86_64: abc}",
        "5:20",
        ("`abc`", "64 hexadecimal digits"),
        "sha256",
    ),
    (f"kubernetes:\n  sha256: {{arm64: {'a' * 64}}}", "4:11", ("without `kubernetes.version`",), "v1.35.0+k3s1"),
    (
        f"kubernetes:\n  distribution: upstream\n  sha256: {{arm64: {'a' * 64}}}",
        "5:11",
        ("go.sum",),
        "sha256: null",
    ),
    ("kubernetes:\n  role: server", "4:9", ("no overlay `kubernetes`",), "overlays: [base, kubernetes]"),
    ("kubernetes:\n  node_ip: 10.0.0.1/8", "4:12", ("IP address",), "without `/`"),
    ("kubernetes:\n  config: {token: abc}", "4:19", ("`token` in `kubernetes.config`",), "`kubernetes.token`"),
    ("kubernetes:\n  config: {vpn-auth: abc}", "4:22", ("a literal secret in `vpn-auth`",), "`file:PATH`"),
    ("kubernetes:\n  config: {agent-token: abc}", "4:25", ("`agent-token` in",), "`kubernetes.agent_token`"),
    ("users: [{name: default}]", "3:16", ("`default`", "cloud-init"), "another name"),
    ("users: [{name: a}, {name: b}, {name: a}]", "3:38", ("two users `a`",), "3:16"),
    ("kernel:\n  arguments: [quiet, root=/dev/sda]", "4:22", ("`root=/dev/sda`",), "remove it"),
    ("kernel:\n  arguments: ['ds=nocloud;s=http://a:hunter2@b/']", "4:15", ("`ds`", "no effect"), "makes a seed"),
    (
        "kernel:\n  arguments: [quiet network-config=disabled]",
        "4:15",
        ("`network-config`", "no effect"),
        "makes a seed",
    ),
    ("overlays: [bse]", "3:12", ("no overlay `bse`",), "did you mean `base`?"),
    ("overlays: [/]", "3:12", ("the overlay `/`, the root folder of this host",), "make a folder"),
    ("overlays: [./nowhere]", "3:12", ("no overlay `./nowhere`",), "one of: base"),
    ("elements: [./nowhere]", "3:12", ("`./nowhere` is not", "element"), "relative to the profile"),
    ("kubernetes:\n  images: [dmo]", "4:12", ("`dmo` is not", "`demo`"), "relative to the profile"),
    ("kubernetes:\n  manifests: [note.yaml]", "4:15", ("`note.yaml` is not",), "did you mean `node.yaml`?"),
    ("kubernetes:\n  manifests: [readme]", "4:15", ("`readme`", ".yaml"), "rename"),
    ("time:\n  zone: Europe/Berln", "4:9", ("time zone `Europe/Berln`",), "did you mean `Europe/Berlin`?"),
    # network
    ("ADDRESS: 192.0.2.5", "5:27", ("prefix length",), "`192.0.2.5/24`"),
    ("ADDRESS: 192.0.2.300/24", "5:27", ("`192.0.2.300/24`",), "digits"),
    ("ADDRESS: 192.0.2.5/33", "5:27", ("`192.0.2.5/33`",), "after `/`"),
    ("ADDRESS: 192.0.2.0/24", "5:27", ("`192.0.2.0/24`",), "the address of the network"),
    ("ADDRESS: 192.0.2.255/24", "5:27", ("`192.0.2.255/24`",), "broadcast"),
    ("ADDRESS: 192.0.2.5/255.255.255.0", "5:27", ("prefix length",), "`192.0.2.5/24`"),
    ("ADDRESS: 127.0.0.1/8", "5:27", ("`127.0.0.1/8`", "loopback"), "one host"),
    ("ADDRESS: '2001:db8::/64'", "5:27", ("`2001:db8::/64`",), "the address of the network"),
    ("ADDRESS: 'fe80::5%eth0/64'", "5:27", ("without `%`",), "`fe80::5`"),
    ("network:\n  interfaces:\n  - {name: a, gateway: 'fe80::1%eth0'}", "5:24", ("without `%`",), "`fe80::1`"),
    ("network:\n  interfaces:\n  - {name: a, dns: ['fe80::1%a']}", "5:21", ("without `%`",), "`fe80::1`"),
    ("GATEWAY: router", "5:54", ("gateway's IP address",), "write `192.0.2.1`"),
    ("GATEWAY: 192.0.3.1", "5:54", ("`192.0.3.1`", "in 192.0.2.0/24"), "prefix length"),
    ("GATEWAY: 192.0.2.5", "5:54", ("own address",), "another host"),
    ("network:\n  interfaces:\n  - {name: a, dns: [dns.example]}", "5:21", ("name server",), "192.0.2.1"),
    ("network:\n  interfaces:\n  - name: a\n  - name: a", "6:5", ("two interfaces with the name `a`",), "5:5"),
    ("network:\n  proxy: {http: 'http://p:99999'}", "4:17", ("`http://p:99999`", "port is not valid"), "proxy.example"),
    ("network:\n  proxy: {https: 'http://[::1'}", "4:18", ("`http://[::1`", "not valid"), "proxy.example"),
    ("network:\n  bridges: [{name: '100'}]", "4:20", ("`100`", "it is a number"), "`vlan100`"),
    ("network:\n  interfaces: [{name: default}]", "4:23", ("`default`", "special meaning"), "another name"),
    # secrets: never quoted
    ("kubernetes:\n  token: hunter2", "4:10", ("a literal value for `kubernetes.token`",), "`env:NAME`"),
    ("kubernetes:\n  token: 123456", "4:10", ("another value", "reference to a secret"), "`file:PATH`"),
    ("kubernetes:\n  token: 'file:'", "4:10", ("a literal value",), "`file:PATH`"),
    ("users:\n- {name: a, password: $6$abc}", "4:23", ("`users[0].password`", "reference"), "`env:NAME`"),
    ("users:\n- {name: a, ssh_keys: [ssh-ed25519]}", "4:24", ("no SSH public key for user `a`", "missing"), ".pub"),
    ("users:\n- {name: a, ssh_keys: [ssh-ed25519 AAA]}", "4:24", ("truncated, or not base64",), ".pub"),
    (f"users:\n- {{name: a, ssh_keys: [ssh-rsa {BLOB}]}}", "4:24", ("not of the type ssh-rsa",), ".pub"),
    ("users:\n- {name: a, ssh_keys: [~/.ssh/id.pub]}", "4:24", ("it has no key type",), "`file:PATH`"),
    (
        'users:\n- {name: a, ssh_keys: ["-----BEGIN OPENSSH PRIVATE KEY-----\\nhunter2"]}',
        "4:24",
        ("another value for `users[0].ssh_keys[0]`",),
        "public keys",
    ),
    ("agent:\n  server: https://me:hunter2@host/", "4:11", ("another value for `agent.server`",), "update server"),
    ("agent: {attributes: {version: '2'}}", "3:31", ("`version`", "has a meaning already"), "`own_version`"),
    ("agent: {attributes: {serial: '2'}}", "3:30", ("`serial`", "has a meaning already"), "`facts: [serial]`"),
    ("agent: {attributes: {tag.site: a}}", "3:32", ("`tag.site`", "has a meaning already"), "`own_site`"),
    ("agent: {attributes: {my site: a}}", "3:22", ("the name `my site`", "beginning with a letter"), "spelling"),
    ("agent: {attributes: {rack: 7}}", "3:28", ("the number `7`", "`agent.attributes.rack`"), "quote"),
    ("agent: {attributes: {site: ' Oslo'}}", "3:28", ("` Oslo`", "no white space at its ends"), "its site"),
    (MANY_ATTRIBUTES, "3:21", ("61 values in `agent.attributes`", "at most 60"), "rollout"),
    ("agent: {facts: [serial, modell]}", "3:25", ("`modell`", "`agent.facts"), "`model`"),
    ("agent: {facts: serial}", "3:16", ("`serial`", "a list"), "[serial]"),
    ("kubernetes:\n  server: http://a/?token=hunter2", "4:11", ("another value for `kubernetes.server`",), "URL"),
    # inheritance
    (
        "extends: nowhere-at-all",
        "3:10",
        ("no profile `nowhere-at-all` to extend",),
        "profiles that can be extended are:",
    ),
    ("extends: edge-servr", "3:10", ("no profile `edge-servr`",), "did you mean `edge-server`?"),
    ("extends: [minimal, 5]", "3:20", ("the number `5`", "a profile's name"), "minimal"),
    ("extends: node", "3:10", ("extends itself: node → node",), "remove"),
    ("extends: {}", "3:10", ("a block of keys for `extends`",), "minimal"),
]


def expand(text: str) -> str:
    """Short names for what is long to write in the table."""
    interfaces = "network:\n  interfaces:\n  - {name: eth0, addresses: ["
    if text.startswith("ADDRESS: "):
        return interfaces.replace("eth0", "e") + text.removeprefix("ADDRESS: ") + "]}"
    if text.startswith("GATEWAY: "):
        return interfaces + "192.0.2.5/24], gateway: " + text.removeprefix("GATEWAY: ") + "}"
    return text


def fails(path: Path) -> Error:
    with pytest.raises(Error) as caught:
        load_profile(path)
    return caught.value


@pytest.mark.parametrize(("text", "place", "message", "hint"), WRONG, ids=[entry[0][:40] for entry in WRONG])
def test_wrong_profile_gives_one_clear_error(
    tmp_path: Path, text: str, place: str, message: tuple[str, ...], hint: str
) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(HEAD + expand(text) + "\n")
    (tmp_path / "readme").touch()
    error = fails(path)
    assert error.where == f"{path}:{place}", error
    for part in message:
        assert part in error.message
    assert error.hint and hint in error.hint
    assert "hunter2" not in f"{error} {error.hint}"
    assert len(error.message) < 400 and "\n" not in error.message


@pytest.mark.parametrize(
    ("data", "place", "message"),
    [
        (b"", "1:1", "empty"),
        (b"# nothing but a comment\n", "1:1", "empty"),
        (b"- a\n", "1:1", "expected a profile"),
        (b"name: a\nversion: 1.0.0\nhostname: \xff\n", "3:11", "the byte 0xff, expected UTF-8"),
        ("name: a\n".encode("utf-16"), "1:1", "expected UTF-8"),
        (b"name: a\nhostname: \x00", "2:11", "character U+0000"),
        (b"version: 1.0.0\n", "1:1", "`name` is missing"),
        (b"name: a\n", "1:1", "`version` is missing"),
        (b"name: a\nversion: 1.10\n", "2:10", "the number `1.10` for `version`"),
        (b"name:\nversion: 1.0.0\n", "1:6", "nothing for `name`"),
        (b"name: a\nextends: []\n", "1:1", "here and in the profiles that this one extends"),
        (b"%YAML " + b"9" * 5000 + b".1\n---\nname: a\n", "1:7", "not valid YAML"),
        (b"a: " + b"x" * 300_000, "1:1", "more than 256 KiB"),
        (b"a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "1:4", "anchor"),
    ],
)
def test_wrong_file_gives_one_clear_error(tmp_path: Path, data: bytes, place: str, message: str) -> None:
    path = tmp_path / "node.yaml"
    path.write_bytes(data)
    error = fails(path)
    assert error.where == f"{path}:{place}", error
    assert message in error.message
    assert error.hint


def test_a_path_that_is_not_a_file_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.yaml", tmp_path / ("x" * 5000), Path("/dev/zero")):
        assert "cannot read the profile" in fails(path).message


def test_a_loop_of_profiles_is_an_error_at_the_last_extends(tmp_path: Path) -> None:
    for name, base in (("a", "b"), ("b", "c"), ("c", "b")):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\nversion: 1.0.0\nextends: {base}\n")
    error = fails(tmp_path / "a.yaml")
    assert error.message == "the profile extends itself: b → c → b"
    assert error.where == f"{tmp_path}/c.yaml:3:10"


def test_an_error_in_an_inherited_file_is_reported_there_though_it_is_overridden(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("hostname: A_B\n")
    (tmp_path / "node.yaml").write_text("name: node\nversion: 1.0.0\nextends: base\nhostname: fine\n")
    assert fails(tmp_path / "node.yaml").where == f"{tmp_path}/base.yaml:1:11"


def test_a_wrong_combination_is_reported_at_the_statement_that_made_it_wrong(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("kubernetes: {version: v1.35.0+k3s1}\n")
    (tmp_path / "node.yaml").write_text(HEAD + "extends: base\nkubernetes: {distribution: upstream}\n")
    assert fails(tmp_path / "node.yaml").where == f"{tmp_path}/node.yaml:4:28"


def test_appending_to_a_value_that_is_not_a_list_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("kubernetes: {config: {a: text}}\n")
    (tmp_path / "node.yaml").write_text(HEAD + "extends: base\nkubernetes: {config: {a+: [x]}}\n")
    error = fails(tmp_path / "node.yaml")
    assert error.where == f"{tmp_path}/node.yaml:4:23"
    assert "base.yaml:1:26" in (error.hint or "")


def test_an_unknown_name_on_the_command_line_is_a_usage_error_with_the_nearest_name() -> None:
    with pytest.raises(UsageError) as caught:
        find_profile("edge-sever")
    assert caught.value.hint == "did you mean `edge-server`?"

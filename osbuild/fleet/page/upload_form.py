"""The form with which people upload a file: it is read piece by piece, and never held in memory (RFC 7578)."""

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from osbuild.fleet.refusal import Refused

LARGEST_FIELDS = 64 * 1024  # bytes of all headers and fields before and after the file
FILE = "bundle"
"""the name of the field with the file"""


class UploadForm:
    """Reads a form with short fields, and after them one file. `filename` is None until the file begins."""

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise Refused(415, "media-type", "send multipart/form-data")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.complete = False
        self._header, self._value = b"", b""
        self._disposition: dict[bytes, bytes] = {}
        self._text = bytearray()
        self._budget = LARGEST_FIELDS
        self._pieces: list[bytes] = []
        self._parser = MultipartParser(options[b"boundary"], {
            "on_part_begin": self._begin_part, "on_header_field": self._add_header, "on_header_value": self._add_value,
            "on_header_end": self._end_header, "on_headers_finished": self._begin_contents,
            "on_part_data": self._add_contents, "on_part_end": self._end_part, "on_end": self._end,
        })  # fmt: skip

    def feed(self, data: bytes) -> list[bytes]:
        """Read a part of the body, and return what it has of the file. Raises `Refused`."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise Refused(400, "bad-form", f"the form can't be read: {error}") from error
        pieces, self._pieces = self._pieces, []
        return pieces

    def _begin_part(self) -> None:
        self._disposition, self._header, self._value = {}, b"", b""
        self._text = bytearray()

    def _add_header(self, data: bytes, begin: int, end: int) -> None:
        self._header += self._spend(data[begin:end])

    def _add_value(self, data: bytes, begin: int, end: int) -> None:
        self._value += self._spend(data[begin:end])

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = parse_options_header(self._value)[1]
        self._header, self._value = b"", b""

    def _begin_contents(self) -> None:
        if self._is_file():
            if self.filename is not None:
                raise Refused(400, "bad-form", "send one file")
            self.filename = self._disposition.get(b"filename", b"").decode("utf-8", "replace")

    def _add_contents(self, data: bytes, begin: int, end: int) -> None:
        if self._is_file():
            self._pieces.append(bytes(data[begin:end]))
        else:
            self._text += self._spend(data[begin:end])

    def _end_part(self) -> None:
        if not self._is_file():
            name = self._disposition.get(b"name", b"").decode("utf-8", "replace")
            self.fields[name] = self._text.decode("utf-8", "replace")

    def _end(self) -> None:
        self.complete = True

    def _is_file(self) -> bool:
        return self._disposition.get(b"name") == FILE.encode()

    def _spend(self, data: bytes) -> bytes:
        self._budget -= len(data)
        if self._budget < 0:
            raise Refused(413, "form-too-large", f"the fields of a form have at most {LARGEST_FIELDS} bytes")
        return bytes(data)

"""What is wrong with a message in JSON, for people. msgspec's texts name Python's types and regular expressions."""

import re

import msgspec

PLACE = re.compile(r" - at `\$\.?(.*)`$")
KINDS = {
    "int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false", "object": "an object",
    "array": "a list", "null": "null",
}  # fmt: skip
PROBLEMS = (
    (re.compile(r"Expected `str` matching regex .*"), "has characters that it must not have, is empty or too long"),
    (re.compile(r"Expected `\w+` >= (\S+)"), r"must be at least \1"),
    (re.compile(r"Expected `\w+` <= (\S+)"), r"must be at most \1"),
    (re.compile(r"Expected `str` of length >= (\d+)"), r"must have at least \1 characters"),
    (re.compile(r"Expected `str` of length <= (\d+)"), r"must have at most \1 characters"),
    (re.compile(r"Object contains unknown field `(.*)`"), r"has the unknown field `\1`"),
    (re.compile(r"Object missing required field `(.*)`"), r"lacks the field `\1`"),
    (re.compile(r"Invalid enum value (.*)"), r"must not be \1"),
)
EXPECTED = re.compile(r"Expected `([^`]+)`, got `([^`]+)`")


def describe_problem(error: Exception) -> str:
    """Return what is wrong, and in which field."""
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return f"the body can't be read as JSON: {text[:1].lower()}{text[1:]}"
    match = PLACE.search(text)
    place, text = (match[1], text[: match.start()]) if match else ("", text)
    subject = f"`{place}`" if place else "the body"
    if expected := EXPECTED.fullmatch(text):
        kinds = " or ".join(KINDS.get(name.strip(), name.strip()) for name in expected[1].split("|"))
        return f"{subject} must be {kinds}, and is {KINDS.get(expected[2], expected[2])}"
    for pattern, replacement in PROBLEMS:
        if problem := pattern.fullmatch(text):
            return f"{subject} {problem.expand(replacement)}"
    return f"{subject}: {text[:1].lower()}{text[1:]}"

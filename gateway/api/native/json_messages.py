"""Our messages as JSON: protobuf's mapping, except that 64-bit integers are numbers, and with errors that name a field.

The protos therefore define both APIs, gRPC and the WebSocket.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from services.common.errors import InvalidInput, listed, quoted

M = TypeVar("M", bound=Message)

_RULES = {
    FieldDescriptor.CPPTYPE_STRING: "text",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_INT32: "a whole number of 32 bits",
    FieldDescriptor.CPPTYPE_INT64: "a whole number of 64 bits",
    FieldDescriptor.CPPTYPE_UINT32: "a whole number of 32 bits, 0 or more",
    FieldDescriptor.CPPTYPE_UINT64: "a whole number of 64 bits, 0 or more",
}
_UNREADABLE = (json_format.ParseError, RecursionError, SystemError)
"""protobuf raises SystemError for the name of a field or of an enum's value that has an unpaired surrogate."""
_WIDE = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)


def parse_object(text: str) -> dict[str, Any]:
    """Return the JSON object that a frame holds. Raises InvalidInput."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "too many levels" if isinstance(error, RecursionError) else str(error)
        raise InvalidInput(f'the frame is no JSON: {reason}; send an object such as {{"text": "Hello."}}') from error
    if not isinstance(fields, dict):
        raise InvalidInput('the frame must be a JSON object, such as {"text": "Hello."}')
    return fields


def to_message(fields: Any, kind: type[M], path: str = "") -> M:
    """Return the message of JSON fields; null means that a field is absent. Raises InvalidInput, which names the field.

    `path`: of the fields within the client's message.
    """
    if not isinstance(fields, dict):
        raise InvalidInput(f"{path} must be an object", field=path)
    try:
        return json_format.ParseDict(fields, kind())
    except _UNREADABLE as error:
        fault = _fault(fields, _descriptor(kind), path)
        raise fault or InvalidInput(f"the message cannot be read: {error}", field=path or None) from error


def to_fields(message: Message) -> dict[str, Any]:
    """Return the JSON fields of a message, those with default values too."""
    fields = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return _with_numbers(fields, _descriptor(message))


def _descriptor(message: Message | type[Message]) -> Descriptor:
    descriptor: Any = message.DESCRIPTOR  # one of two classes of the same form
    return descriptor  # type: ignore[no-any-return]


def _with_numbers(fields: dict[str, Any], kind: Descriptor) -> dict[str, Any]:
    """Replace the texts that the mapping uses for 64-bit integers: programs would join instead of add them."""
    for name, value in fields.items():
        field = kind.fields_by_name[name]
        if field.cpp_type in _WIDE:
            fields[name] = [int(item) for item in value] if isinstance(value, list) else int(value)
        elif field.message_type is not None:
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, dict):
                    _with_numbers(item, field.message_type)
    return fields


def _fault(fields: dict[str, Any], kind: Descriptor, path: str) -> InvalidInput | None:
    """Return the error of the first field at fault."""
    known = {name: field for field in kind.fields for name in (field.json_name, field.name)}
    chosen: dict[str, str] = {}
    for name, value in fields.items():
        place = f"{path}.{name}" if path else name
        field = known.get(name)
        if field is None:
            names = listed(field.name for field in kind.fields)
            return InvalidInput(f"unknown field {quoted(place)}; the fields here are {names}", field=place)
        if value is None:
            continue
        choice = field.containing_oneof
        if choice is not None and (other := chosen.setdefault(choice.name, place)) != place:
            return InvalidInput(f"{other} and {place} exclude each other; send one of them", field=place)
        if (fault := _fault_of_value(value, field, kind, place)) is not None:
            return fault
    return None


def _fault_of_value(value: Any, field: FieldDescriptor, kind: Descriptor, place: str) -> InvalidInput | None:
    if field.is_repeated:
        if not isinstance(value, list):
            return InvalidInput(f"{place} must be a list", field=place)
        places = ((item, f"{place}[{number}]") for number, item in enumerate(value))
        return next((fault for item, at in places if (fault := _fault_of_item(item, field, kind, at))), None)
    return _fault_of_item(value, field, kind, place)


def _fault_of_item(value: Any, field: FieldDescriptor, kind: Descriptor, place: str) -> InvalidInput | None:
    if field.message_type is not None:
        if not isinstance(value, dict):
            return InvalidInput(f"{place} must be an object", field=place)
        return _fault(value, field.message_type, place)
    try:
        json_format.ParseDict({field.name: [value] if field.is_repeated else value}, GetMessageClass(kind)())
    except _UNREADABLE:
        return InvalidInput(f"{place} must be {_rule(field)}", field=place)
    return None


def _rule(field: FieldDescriptor) -> str:
    if field.enum_type is not None:
        return "one of " + listed(value.name for value in field.enum_type.values if value.number)
    return "base64" if field.type == FieldDescriptor.TYPE_BYTES else _RULES[field.cpp_type]

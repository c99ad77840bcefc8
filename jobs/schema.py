"""The JSON Schema of a job file, for editors: `python -m lnmt_scheduler.jobs.schema` prints it.

Made of the table that checks job files. docs/reference/job-file.schema.json is its output, and a test compares them.
"""

import json
from typing import Any

from lnmt_scheduler.jobs import load
from lnmt_scheduler.jobs.fields import FIELDS, LIMITS, Field


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a job file."""
    keys = {key: _schema_of(field, load.DEFAULTS[key]) for key, field in FIELDS.items() if field.schema is not None}
    del keys["id"]["default"], keys["name"]["default"]
    keys["limits"] |= {
        "properties": {key: _schema_of(field) for key, field in LIMITS.items() if field.schema is not None},
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "LNMT Scheduler job file",
        "type": "object",
        "properties": {
            "$schema": {"type": "string"},
            "jobs": {"type": "array", "items": {"$ref": "#/$defs/job"}},
            "defaults": {"$ref": "#/$defs/defaults"},
        },
        "required": ["jobs"],
        "additionalProperties": False,
        "$defs": {
            "job": {
                "type": "object",
                "properties": {key: {"$ref": f"#/$defs/keys/{key}"} for key in keys},
                "required": ["id"],
                "additionalProperties": False,
            },
            "defaults": {
                "description": "Values for every job of the file that does not give the key itself.",
                "type": "object",
                "properties": {key: {"$ref": f"#/$defs/keys/{key}"} for key in keys if key not in load.NO_DEFAULT},
                "additionalProperties": False,
            },
            "keys": keys,
        },
    }


_ABSENT = object()


def _schema_of(field: Field, default: object = _ABSENT) -> dict[str, Any]:
    value: dict[str, Any] = dict(field.schema or {})
    if field.nullable:
        value = {"anyOf": [value, {"type": "null"}]}
    return {"description": field.description} | value | ({} if default is _ABSENT else {"default": default})


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2))

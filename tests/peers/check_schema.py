"""schemathesis against a gateway: LIGHTTTS_HTTP=URL pytest check_schema.py. No input may cause a server error."""

from __future__ import annotations

import os

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error

EXAMPLES = 30
"""Per operation."""

schema = schemathesis.openapi.from_url(os.environ["LIGHTTTS_HTTP"] + "/openapi.json")


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_no_input_causes_a_server_error(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=[not_a_server_error], timeout=60)

"""Compare the classes of the models with their tables."""

from typing import Any, get_args

import pytest

from skychimp import models
from skychimp.models import Table, metadata

NAMED = [getattr(models, name) for name in models.__all__]
CLASSES = [each for each in NAMED if isinstance(each, type) and issubclass(each, Table) and each is not Table]


def test_each_table_has_a_class() -> None:
    assert sorted(each.__table__.name for each in CLASSES) == sorted(metadata.tables)


@pytest.mark.parametrize("described", CLASSES, ids=lambda each: each.__name__)
def test_class_describes_its_table(described: Any) -> None:
    fields, columns = described.model_fields, described.__table__.columns
    assert list(fields) == list(columns.keys())
    for name, column in columns.items():
        field = fields[name]
        may_be_none = type(None) in get_args(field.annotation)
        assert may_be_none == column.nullable or column.primary_key, name
        if column.default is not None:
            assert field.default == column.default.arg, name

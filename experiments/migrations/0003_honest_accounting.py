"""Completions say what probes and continuations computed anew, and how an exit was not put into effect."""

from typing import Any

from django.db import migrations, models

# The columns of a unit's totals before this migration; "unenforced" comes behind the last of a request.
REQUEST, UNIT = 21, 23


def widen_moments(apps: Any, schema_editor: Any) -> None:
    """What was counted so far had no enforcement failure: the new column and its products are zeros."""
    moments = apps.get_model("experiments", "ArmMoments")
    for row in moments.objects.exclude(cohort="pairs").iterator():
        old = row.moments
        width = len(old["columns"])
        if width != UNIT:
            continue
        names = [*old["columns"][:REQUEST], "unenforced", *old["columns"][REQUEST:]]
        place = {name: i for i, name in enumerate(old["columns"])}
        sums, products = dict(zip(old["columns"], old["sums"], strict=True)), iter(old["products"])
        known = {(j, k): next(products) for j in range(width) for k in range(j, width)}
        row.moments = {
            "columns": names,
            "units": old["units"],
            "sums": [sums.get(name, 0) for name in names],
            "products": [
                known[tuple(sorted((place[a], place[b])))] if a in place and b in place else 0
                for i, a in enumerate(names)
                for b in names[i:]
            ],
        }
        row.save(update_fields=["moments"])


class Migration(migrations.Migration):
    dependencies = [("experiments", "0002_statistics_that_hold")]

    operations = [
        migrations.AlterField(
            model_name="modelprofile",
            name="engine",
            field=models.CharField(
                choices=[
                    ("transformers", "transformers (PyTorch)"),
                    ("vllm", "vLLM"),
                    ("scripted", "scripted (for tests)"),
                ],
                default="transformers",
                max_length=32,
            ),
        ),
        migrations.AddField(
            model_name="completion",
            name="prefill_tokens",
            field=models.PositiveIntegerField(
                default=0,
                db_default=0,
                help_text="Computed anew for probes and continuations, because no cache held them.",
            ),
        ),
        migrations.AddField(
            model_name="completion",
            name="enforcement_failures",
            field=models.CharField(
                max_length=128,
                blank=True,
                db_default="",
                help_text="How the decided exit was not put into effect as it should have been; comma-separated.",
            ),
        ),
        migrations.RunSQL(
            f"""UPDATE experiments_countedrequest
                SET values = values[1:{REQUEST}] || 0::bigint || values[{REQUEST + 1}:]
                WHERE cardinality(values) = {REQUEST + 8}""",
            migrations.RunSQL.noop,
        ),
        migrations.RunSQL(
            f"""UPDATE experiments_unittotals
                SET totals = totals[1:{REQUEST}] || 0::bigint || totals[{REQUEST + 1}:]
                WHERE cohort <> 'pairs' AND cardinality(totals) = {UNIT}""",
            migrations.RunSQL.noop,
        ),
        migrations.RunPython(widen_moments, migrations.RunPython.noop),
    ]

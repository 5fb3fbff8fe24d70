"""What was counted of a request remembers its history, and arms count answered, late and corrected labels."""

from typing import Any

import django.db.models.deletion
from django.db import migrations, models

# The columns of a request and of a unit's totals before this migration; the new ones come behind a request's last.
REQUEST, UNIT = 22, 24
NEW = ("due_answered", "labelled_answered", "late", "corrected")
_ZEROS = "ARRAY[0, 0, 0, 0]::bigint[]"


def widen_moments(apps: Any, schema_editor: Any) -> None:
    """The new columns and their products are zeros: of what was counted so far they cannot be told any more.

    Label rates are compared from now on; what is counted anew changes both of their columns alike.
    """
    moments = apps.get_model("experiments", "ArmMoments")
    for row in moments.objects.exclude(cohort="pairs").iterator():
        old = row.moments
        width = len(old["columns"])
        if width != UNIT:
            continue
        names = [*old["columns"][:REQUEST], *NEW, *old["columns"][REQUEST:]]
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
    dependencies = [("experiments", "0005_openai_engine")]

    operations = [
        migrations.AddField(
            model_name="countedrequest",
            name="history",
            field=models.PositiveSmallIntegerField(
                default=0,
                db_default=0,
                help_text="Flags of what it went through while it was counted; a rebuild keeps them.",
            ),
        ),
        migrations.AddField(
            model_name="phase",
            name="exposures",
            field=models.PositiveIntegerField(
                null=True, blank=True, help_text="Units that were exposed in it; kept some time after its end."
            ),
        ),
        migrations.AddField(
            model_name="variant",
            name="ship_snapshot",
            field=models.ForeignKey(
                to="experiments.snapshot",
                on_delete=django.db.models.deletion.SET_NULL,
                null=True,
                blank=True,
                related_name="+",
                help_text="The last look of a phase whose verdict on this variant is ship; later phases leave it as it "
                "is.",
            ),
        ),
        # Counted (1), labelled (2) and right (4) then, with feedback (16): columns 15, 16 and 19 of a request.
        migrations.RunSQL(
            f"""UPDATE experiments_countedrequest
                SET values = values[1:{REQUEST}] || {_ZEROS} || values[{REQUEST + 1}:],
                    history = 1 + CASE WHEN values[15] > 0 THEN 2 ELSE 0 END
                                + CASE WHEN values[16] > 0 THEN 4 ELSE 0 END
                                + CASE WHEN values[19] > 0 THEN 16 ELSE 0 END
                WHERE cardinality(values) = {REQUEST + 8}""",
            migrations.RunSQL.noop,
        ),
        migrations.RunSQL(
            f"""UPDATE experiments_unittotals
                SET totals = totals[1:{REQUEST}] || {_ZEROS} || totals[{REQUEST + 1}:]
                WHERE cohort <> 'pairs' AND cardinality(totals) = {UNIT}""",
            migrations.RunSQL.noop,
        ),
        migrations.RunPython(widen_moments, migrations.RunPython.noop),
    ]

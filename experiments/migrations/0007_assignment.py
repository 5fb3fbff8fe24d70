"""Layers, holdouts, ramps of coverage, policies by context, and keys that reach several use cases."""

import django.contrib.postgres.constraints
import django.db.models.expressions
import django.db.models.functions.comparison
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("experiments", "0006_label_history"),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name="experiment",
            name="one_running_experiment_per_use_case",
        ),
        migrations.AddField(
            model_name="apikey",
            name="any_use_case",
            field=models.BooleanField(
                db_default=False, default=False, help_text="Whether its requests may name any use case."
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="use_cases",
            field=models.ManyToManyField(
                blank=True,
                help_text="Further use cases that its requests may name.",
                related_name="+",
                to="experiments.usecase",
            ),
        ),
        migrations.AddField(
            model_name="experiment",
            name="coverage_since",
            field=models.DateTimeField(
                blank=True, help_text="Since when the coverage has been what it is, in the phase that runs.", null=True
            ),
        ),
        migrations.AddField(
            model_name="experiment",
            name="layer",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="Shared by experiments that exclude each other.",
                max_length=40,
            ),
        ),
        migrations.AddField(
            model_name="experiment",
            name="layer_high",
            field=models.PositiveSmallIntegerField(
                db_default=10000, default=10000, help_text="Its buckets of the layer are those from low up to high."
            ),
        ),
        migrations.AddField(
            model_name="experiment",
            name="layer_low",
            field=models.PositiveSmallIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name="experiment",
            name="ramp",
            field=models.JSONField(
                blank=True,
                db_default=[],
                default=list,
                help_text="Steps of coverage, each with the seconds that it is held.",
            ),
        ),
        migrations.AddField(
            model_name="usecase",
            name="holdout",
            field=models.FloatField(
                db_default=0.0, default=0.0, help_text="Share of the units that never enters an experiment."
            ),
        ),
        migrations.AddField(
            model_name="usecase",
            name="holdout_salt",
            field=models.CharField(blank=True, db_default="", default="", max_length=64),
        ),
        migrations.AddField(
            model_name="usecase",
            name="policies_by_context",
            field=models.JSONField(
                blank=True,
                db_default={},
                default=dict,
                help_text="Policies that are in force instead in some contexts, by the context's name.",
            ),
        ),
        migrations.AddConstraint(
            model_name="experiment",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("layer_high__lte", 10000),
                    ("layer_low__gte", 0),
                    ("layer_low__lt", models.F("layer_high")),
                    models.Q(
                        models.Q(("layer", ""), _negated=True),
                        models.Q(("layer_high", 10000), ("layer_low", 0)),
                        _connector="OR",
                    ),
                ),
                name="experiment_layer",
            ),
        ),
        migrations.AddConstraint(
            model_name="experiment",
            constraint=django.contrib.postgres.constraints.ExclusionConstraint(
                condition=models.Q(("state", "running")),
                expressions=[
                    (
                        models.Func(
                            django.db.models.expressions.CombinedExpression(
                                django.db.models.expressions.CombinedExpression(
                                    django.db.models.functions.comparison.Cast("use_case_id", models.BigIntegerField()),
                                    "*",
                                    models.Value(10000),
                                ),
                                "+",
                                django.db.models.functions.comparison.Cast("layer_low", models.BigIntegerField()),
                            ),
                            django.db.models.expressions.CombinedExpression(
                                django.db.models.expressions.CombinedExpression(
                                    django.db.models.functions.comparison.Cast("use_case_id", models.BigIntegerField()),
                                    "*",
                                    models.Value(10000),
                                ),
                                "+",
                                django.db.models.functions.comparison.Cast("layer_high", models.BigIntegerField()),
                            ),
                            function="int8range",
                        ),
                        "&&",
                    )
                ],
                name="running_experiments_are_disjoint",
            ),
        ),
        migrations.AddConstraint(
            model_name="usecase",
            constraint=models.CheckConstraint(
                condition=models.Q(("holdout__gte", 0), ("holdout__lt", 1)), name="use_case_holdout"
            ),
        ),
    ]

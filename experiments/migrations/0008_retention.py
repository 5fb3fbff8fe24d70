"""What is kept of texts, by use case, request and completion; erasures, and hashes to find a unit by."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("experiments", "0007_assignment"),
    ]

    operations = [
        migrations.CreateModel(
            name="Erasure",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("digest", models.CharField(help_text="Keyed hash of the unit id.", max_length=32)),
                ("admitted_until", models.DateTimeField()),
            ],
        ),
        migrations.AddField(
            model_name="admission",
            name="conversation_hash",
            field=models.CharField(blank=True, db_default="", default="", max_length=32),
        ),
        migrations.AddField(
            model_name="admission",
            name="retention",
            field=models.CharField(
                db_default="keep",
                default="keep",
                help_text="What becomes of its texts; drop once it was erased.",
                max_length=8,
            ),
        ),
        migrations.AddField(
            model_name="admission",
            name="user_hash",
            field=models.CharField(blank=True, db_default="", default="", max_length=32),
        ),
        migrations.AddField(
            model_name="completion",
            name="answer_removed",
            field=models.BooleanField(
                db_default=False, default=False, help_text="There was an answer, and it was dropped or erased."
            ),
        ),
        migrations.AddField(
            model_name="completion",
            name="retention",
            field=models.CharField(db_default="keep", default="keep", max_length=8),
        ),
        migrations.AddField(
            model_name="usecase",
            name="retention",
            field=models.CharField(
                choices=[("keep", "Kept"), ("hash", "Keyed hashes only"), ("drop", "Dropped")],
                db_default="keep",
                default="keep",
                help_text="What becomes of prompts, thinking, answers and references.",
                max_length=8,
            ),
        ),
        migrations.AddIndex(
            model_name="admission",
            index=models.Index(
                condition=models.Q(("reference__startswith", "sealed:1:")),
                fields=["deadline_at"],
                name="admission_sealed",
            ),
        ),
        migrations.AddIndex(
            model_name="admission",
            index=models.Index(
                condition=models.Q(("unit_hash", ""), _negated=True),
                fields=["unit_hash"],
                name="admission_by_unit_hash",
            ),
        ),
        migrations.AddIndex(
            model_name="admission",
            index=models.Index(
                condition=models.Q(("user_hash", ""), _negated=True),
                fields=["user_hash"],
                name="admission_by_user_hash",
            ),
        ),
        migrations.AddIndex(
            model_name="admission",
            index=models.Index(
                condition=models.Q(("conversation_hash", ""), _negated=True),
                fields=["conversation_hash"],
                name="admission_by_conversation_hash",
            ),
        ),
        migrations.AddField(
            model_name="erasure",
            name="use_case",
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, to="experiments.usecase"),
        ),
        migrations.AddConstraint(
            model_name="erasure",
            constraint=models.UniqueConstraint(fields=("use_case", "digest"), name="one_erasure_per_unit"),
        ),
    ]

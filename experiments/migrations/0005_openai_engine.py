"""Model profiles may name an OpenAI-compatible server."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("experiments", "0004_named_graders"),
    ]

    operations = [
        migrations.AddField(
            model_name="completion",
            name="estimated_counts",
            field=models.CharField(
                max_length=128,
                blank=True,
                db_default="",
                help_text="Kinds of tokens whose counts a remote server did not tell; comma-separated.",
            ),
        ),
        migrations.AlterField(
            model_name="modelprofile",
            name="engine",
            field=models.CharField(
                choices=[
                    ("transformers", "transformers (PyTorch)"),
                    ("vllm", "vLLM"),
                    ("scripted", "scripted (for tests)"),
                    ("openai", "OpenAI-compatible server"),
                ],
                default="transformers",
                max_length=32,
            ),
        ),
    ]

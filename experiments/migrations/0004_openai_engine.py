from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("experiments", "0002_statistics_that_hold"),
    ]

    operations = [
        migrations.AlterField(
            model_name="modelprofile",
            name="engine",
            field=models.CharField(
                choices=[("transformers", "transformers (PyTorch)"), ("openai", "OpenAI-compatible server")],
                default="transformers",
                max_length=32,
            ),
        ),
    ]

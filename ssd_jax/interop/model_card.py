"""Model cards: the README.md of a folder of weights, with the front matter that the Hugging Face Hub reads."""

import json
from typing import Any

from ssd_jax.run.trained import Trained

# Front matter and text on the data of a source whose licence is known.
LICENCES = {
    "openmoji": (
        "cc-by-sa-4.0",
        "All emojis designed by [OpenMoji](https://openmoji.org), the open-source emoji and icon project, licensed under "
        "[CC BY-SA 4.0](https://creativecommons.org/licenses/by-sa/4.0/). This model and its pictures are under the same "
        "licence.",
    )
}
UNKNOWN = "The licence of these data is not known here; say it, and that of the model, before you publish."


def model_card(trained: Trained, quantize: str | None = None) -> str:
    """A model card in Markdown: what the model is, what it was trained on, under which licence, how to draw with it.

    Args:
        trained: the model.
        quantize: what its weights are stored as, see `run.quantization`.
    """
    data, train = trained.config.data, trained.config.train
    licence, terms = LICENCES.get(data.source, ("other", UNKNOWN))
    front: dict[str, Any] = {
        "library_name": "ssd_jax",
        "pipeline_tag": "unconditional-image-generation",
        "license": licence,
        "tags": ["diffusion", "scale-space-diffusion", "jax"],
    }
    if data.source == "huggingface":
        front["datasets"] = [data.name]
    called = data.source if data.name is None else f"{data.source}, {data.name}"
    label = f", label={json.dumps(data.classes[0])}" if data.classes else ""
    lines = [
        "---",
        *(f"{name}: {json.dumps(value)}" for name, value in front.items()),  # JSON is YAML
        "---",
        "",
        f"# Scale Space Diffusion, {'x'.join(map(str, trained.process.shape))}",
        "",
        "```",
        str(trained),
        "```",
        "",
        f"The weights are the average (EMA) of {trained.step} steps of {train.batch_size} images"
        + (f", stored as {quantize}." if quantize else "."),
        "",
        "## Data",
        "",
        f"Trained on: {called}. {terms}",
        "",
        "## To draw with it",
        "",
        "```python",
        "import jax",
        "import ssd_jax",
        "",
        'trained = ssd_jax.load("THIS FOLDER")',
        f"samples = trained.sample(jax.random.key(0), 16{label})",
        "pictures = trained.encoding.decode(samples)",
        "```",
        "",
    ]
    return "\n".join(lines)

"""How the PyTorch code names and shapes the tensors of its networks."""


def published_shapes(
    widths=(32, 64), *, num_res_blocks=1, attention=(1,), adapters=(16, 8), classes=0, outputs=3, residual_resampling=False
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published network's tensors, laid out as guided-diffusion builds its UNetModel.

    Of ADM without adapters; with `residual_resampling` as `resblock_updown` makes it there.
    """
    shapes, embedding, levels = {}, 4 * widths[0], len(widths)

    def layer(name, *weight):
        shapes.update({f"{name}.weight": weight, f"{name}.bias": weight[:1]})

    def residual(name, width_in, width):
        layer(f"{name}.in_layers.0", width_in)
        layer(f"{name}.in_layers.2", width, width_in, 3, 3)
        layer(f"{name}.emb_layers.1", 2 * width, embedding)
        layer(f"{name}.out_layers.0", width)
        layer(f"{name}.out_layers.3", width, width, 3, 3)
        if width_in != width:
            layer(f"{name}.skip_connection", width, width_in, 1, 1)

    def between(name, convolution, width):
        if residual_resampling:
            residual(name, width, width)
        else:
            layer(f"{name}.{convolution}", width, width, 3, 3)

    def attend(name, width):
        layer(f"{name}.norm", width)
        layer(f"{name}.qkv", 3 * width, width, 1)
        layer(f"{name}.proj_out", width, width, 1)

    layer("time_embed.0", embedding, widths[0])
    layer("time_embed.2", embedding, embedding)
    layer("input_blocks.0.0", widths[0], 3, 3, 3)
    if classes:
        shapes["label_emb.weight"] = (classes, embedding)
    width, skips, number = widths[0], [widths[0]], 1
    for level in range(levels):
        for _ in range(num_res_blocks):
            residual(f"input_blocks.{number}.0", width, widths[level])
            width, number = widths[level], number + 1
            skips.append(width)
            if level in attention:
                attend(f"input_blocks.{number - 1}.1", width)
        if level < levels - 1:
            between(f"input_blocks.{number}.0", "op", width)
            skips.append(width)
            number += 1
    residual("middle_block.0", width, width)
    attend("middle_block.1", width)
    residual("middle_block.2", width, width)
    number = 0
    for level in reversed(range(levels)):
        for i in range(num_res_blocks + 1):
            residual(f"output_blocks.{number}.0", width + skips.pop(), widths[level])
            width = widths[level]
            if level in attention:
                attend(f"output_blocks.{number}.1", width)
            if level and i == num_res_blocks:
                between(f"output_blocks.{number}.{1 + (level in attention)}", "conv", width)
            number += 1
    layer("out.0", widths[0])
    layer("out.2", outputs, widths[0], 3, 3)
    for level, size in enumerate(adapters):
        above = widths[max(level - 1, 0)]
        if above != widths[0]:
            layer(f"adapters_in.{size}", above, widths[0], 1, 1)
        if widths[level] != widths[0]:
            layer(f"adapters_out.{size}", widths[0], widths[level], 1, 1)
    return shapes

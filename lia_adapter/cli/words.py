"""What commands print of generators, files and figures, in a few aligned lines."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lia_adapter.generators import Generator
    from lia_adapter.lia import LIA

__all__ = [
    "conversion_lines",
    "encoder_lines",
    "evaluation_lines",
    "generator_lines",
    "lia_file_lines",
    "training_lines",
]


def generator_lines(lia: "LIA") -> str:
    """A generator in a few aligned lines."""
    g = lia.generator
    count = sum(p.numel() for p in g.parameters())
    height, width = g.resolution
    lines = [
        f"family     {lia.family or 'none: a wrapped generator'}, {count:,} parameters",
        f"images     {width} x {height}, {g.channels} channels, {g.num_ws} layers",
        f"codes      z {g.z_dim}, y {g.y_dim}" + (f", {_labels(g)}" if g.c_dim else ", unconditional"),
        f"has        {'discriminator' if lia.discriminator is not None else 'no discriminator'}, "
        f"{'average y' if g.y_mean is not None else 'no average y'}" + (", encoder" if lia.encoder is not None else ""),
    ]
    return "\n".join(lines)


def _labels(generator: "Generator") -> str:
    """What a conditional generator is given, in words."""
    from lia_adapter.generators.labels import label_words

    if generator.makes != "images":
        return f"labels of {label_words(generator.c_dim)}"
    return f"{generator.c_dim} classes (or labels of {label_words(generator.c_dim)})"


def lia_file_lines(name: str, header: Mapping[str, Any]) -> str:
    """What a LIA file's header says, in a few aligned lines."""
    provenance = header["provenance"]
    own = header["config"].get("generator", {}).get("mapping", {})  # of a generator that learnt with an invertible mapping
    mapping = header["mapping"] or (own if "coupling" in own else {"coupling": "not invertible yet", "y_dim": own.get("z_dim")})
    content = "the adapter alone" if header["adapter_only"] else f"{header['family']} generator and adapter"
    lines = [
        f"file       {name}, a LIA file: {content}",
        f"mapping    {mapping.get('coupling')}, z and y {mapping.get('y_dim')}",
        f"source     {provenance.get('source', 'a wrapped generator')}, sha256 {provenance.get('source_sha256', 'unknown')}",
        f"generator  fingerprint {header['generator_sha256']}",
    ]
    if "seeds_raw" in header["metrics"]:  # measured by convert
        lines += conversion_lines(header["metrics"]).splitlines()
    if header.get("encoder"):
        space, made_by = header["encoder"].get("space"), provenance.get("encoder", {})
        lines.append(f"encoder    into {space}, trained on {made_by.get('data', {}).get('images', 0):,} images")
    return "\n".join(lines)


def conversion_lines(metrics: Mapping[str, Any]) -> str:
    """The figures in a few aligned lines, the last ones on z: what each is, and what is right."""
    from lia_adapter.reports.prior import number, prior_verdict

    lines = []
    for name in ("sliced_wasserstein", "frechet", "frechet_images"):
        between = metrics[name].get("interval")
        rough = f", between {between[0]:.2f} and {between[1]:.2f}: {metrics['images']} images a side" if between else ""
        lines.append(f"{name:<20} {number(metrics[name]['ratio'], '.3f')} x its noise floor{rough}")
    lines.append(f"{'classifier':<20} {number(metrics['classifier']['excess'], '+.3f')} above its noise floor")
    lines.append(f"{'round_trip':<20} {number(metrics['round_trip']['value'], '.1e')} standard deviations at most")
    raw, white = (number(metrics[name]["value"], ".3f") for name in ("seeds_raw", "seeds_white"))
    lines.append(f"{'same z':<20} {raw} correlation of the codes of both mappings, {white} whitened")
    if "z_size" in metrics:  # not in files of earlier versions
        lines += [f"{name:<20} {text}" for name, text in _prior_words(metrics).items()]
        lines.append(prior_verdict(metrics))
    return "\n".join(lines)


def _prior_words(metrics: Mapping[str, Any]) -> dict[str, str]:
    """What was measured of z: what it is, and what is right."""
    from lia_adapter.reports.prior import number

    def both(name: str, form: str) -> tuple[str, str]:
        return number(metrics[name]["value"], form), number(metrics[name]["floor"], form)

    (size, right_size), (high, right_high) = both("z_size", ".4g"), both("z_size_95", ".4g")
    (spread, right_spread), (most, right_most) = both("z_spread", ".3g"), both("z_spread_largest", ".3g")
    trips = [number(metrics[f"{name}_float32"]["value"], ".1e") for name in ("round_trip", "round_trip_z")]
    noise, psnr, likelihood = metrics["noise"]["sigma"], number(metrics["noise"]["psnr"], ".1f"), metrics["log_likelihood"]
    nats = number(likelihood["value"], ".5g", "too small")
    of_each = [value for value in metrics["z_size"].get("of each class", ()) if value is not None]
    classes = f"; {number(min(of_each), '.4g')} to {number(max(of_each), '.4g')} for each class alone" if of_each else ""
    return {
        "round_trip_float32": f"{trips[0]} with z in float32, {trips[1]} for z -> y -> z; right is near 0",
        "noise": f"{noise:g} standard deviations, on y, for what follows ({psnr} dB in pictures)",
        "z_size": f"{size}, at 95 % {high}: |z|^2 / d of the original's codes; right is {right_size}, {right_high}{classes}",
        "z_spread": f"{spread}, largest {most}: eigenvalues of z's covariance; right is {right_spread}, {right_most}",
        "z_classifier": f"{number(metrics['z_classifier']['excess'], '+.3f')} above its noise floor; right is 0",
        "z_sliced_wasserstein": f"{number(metrics['z_sliced_wasserstein']['ratio'], '.4g')} x its noise floor; right is 1",
        "log_likelihood": f"{nats} nats a dimension; right is above a Gaussian's {likelihood['gaussian']:.4f}",
    }


def encoder_lines(figures: Mapping[str, Any]) -> str:
    """What a training measured, in a few aligned lines."""
    from lia_adapter.reports.encoder import encoder_verdict, real_images_words

    after, before = figures["after"], figures["before"]
    between = "{:.2f} to {:.2f}".format(*after["interval"])
    texts = {
        "correlation": f"of found and true y, on the {after['directions']} directions that move pixels, {between}",
        "all": "the same on all directions",
        "mse": "mean squared error of the generator's own images",
        "mse_of_real_images": f"mean squared error of {real_images_words(figures)}",
    }
    lines = [f"{after[key]:<8.4f} {text} (before: {before[key]:.4f})" for key, text in texts.items()]
    return "\n".join([*lines, encoder_verdict(figures)])


def evaluation_lines(figures: Mapping[str, Any]) -> str:
    """The figures in a few aligned lines."""
    answer, frechet, typicality = figures["known_answer"], figures["frechet"], figures["typicality"]
    lines = {
        "images": f"{figures['images']['count']:,}",
        "mse": f"{figures['mse']:.4f} on [-1, 1], psnr {figures['psnr']:.2f} dB, ssim {figures['ssim']:.4f}",
        "swd": f"{figures['swd']['mean']:.2f} x 1e-3",
        "frechet": f"{frechet['reconstructions']:.4g} reconstructions, {frechet['samples']:.4g} samples; {frechet['features']}",
        "round_trip": f"{figures['round_trip']:.1e} standard deviations at most",
        "known_answer": f"{answer['correlation']:.3f} correlation, mse of drawn images {answer['mse']:.4f}",
        "typicality": f"{typicality['unusual']:.1%} of the images unusual (1% is usual), size of z {typicality['z_size']:.3g}",
        "prior_p": f"{typicality['prior_p']:.3f}, the median; 0.5 is usual",
    }
    if between := frechet.get("interval"):
        said = ", ".join(f"{name} {low:.3g} to {high:.3g}" for name, (low, high) in between.items())
        lines["frechet"] += f"\n{'':<19} {said} (95 %): so few images that it is rough, and larger than of many"
    if "perceptual" in figures:
        path = figures["path_length"]
        lines["perceptual"] = f"{figures['perceptual']:.4f}; {figures['network']}"
        lines["path_length"] = f"{path['z']:.1f} in z, {path['y']:.1f} in y"
    for what, why in figures["left_out"].items():
        lines[what] = f"not measured: {why}"
    return "\n".join(f"{name:<19} {text}" for name, text in lines.items())


def training_lines(metrics: Mapping[str, Any]) -> str:
    """The figures in a few aligned lines."""
    from lia_adapter.reports.encoder import encoder_verdict, real_images_words

    figures = metrics["training"]
    lines = [f"{'images seen':<20} {figures['images']:,} in {figures['seconds']:,.0f} s"]
    if figures["curve"]:
        shown, distance = figures["curve"][-1]
        lines.append(f"{'frechet':<20} {distance:.4g} after {shown:,} images ({figures['features']})")
    if "encoder" in metrics:
        encoder = metrics["encoder"]
        error = encoder["after"]["mse_of_real_images"]
        lines.append(f"{'encoder':<20} mean squared error {error:.4f} of {real_images_words(encoder)}")
        lines.append(encoder_verdict(encoder))
    return "\n".join(lines)

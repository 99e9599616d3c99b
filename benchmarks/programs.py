"""Public programs' own generators, unmodified, through `wrap`, `convert`, an encoder and back; see RESULTS.md.

    python benchmarks/programs.py FOLDER [NAME]... > table.md

FOLDER holds clones of the repositories, each in a folder OWNER+NAME; those that are not there are left out. They are built at
tiny sizes with random weights, on the CPU. CUDA ops that a program compiles when it is imported are replaced by the same
formulas in torch, and packages that are not installed by empty ones, all from outside: no file of theirs is changed.
"""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import multiprocessing
import os
import pickle
import sys
import tempfile
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import packaging.version
import torch
import torch.nn.functional as F
import torch.utils.cpp_extension
from PIL import Image
from torch import Tensor, nn

import lia_adapter
from lia_adapter.checkpoints import inspect_file
from lia_adapter.errors import WrapError
from lia_adapter.generators import WrappedGenerator
from lia_adapter.lia import LIA
from lia_adapter.loading import load
from lia_adapter.ops import patch

CONVERT = {
    "steps": 10, "batch": 64, "statistics_samples": 1000, "eval_samples": 100, "eval_seeds": 1, "image_seconds": 0.0,
}  # fmt: skip
ENCODER = {
    "images": 48, "batch": 8, "width": 4, "width_max": 16, "features": "none", "adversarial_weight": 0.0,
    "statistics_samples": 500, "known_answers": 16, "learning_rate": 2e-3, "ema_images": 50,
}  # fmt: skip


class Program:
    """One program's generator.

    Args:
        module: The generator.
        own: z, psi -> images, by the program's own call; noise as it comes where `random`.
        sizes: z, y, layers, (H, W), channels, as the program was told.
        save: Writes a file as the program's training does, or None where it is not known.
        wrap: Wraps it.
        line: How, in words.
        random: The program can't hold its noise still, so that images are compared by the same random numbers.
        psi: Whether the program truncates towards an average that it keeps.
    """

    def __init__(
        self,
        module: nn.Module,
        own: Callable[[Tensor, float], Any],
        sizes: tuple[int, int, int, tuple[int, int], int],
        save: Callable[[Path], None] | None = None,
        wrap: Callable[[], WrappedGenerator] | None = None,
        line: str = "`wrap(G)`",
        random: bool = False,
        psi: float = 0.5,
    ) -> None:
        self.module, self.own, self.sizes, self.save = module, own, sizes, save
        self.wrap = wrap or (lambda: lia_adapter.wrap(module))
        self.line, self.random, self.psi = line, random, psi


# What the programs need and this machine may not have


def _fused_bias_act(x: Tensor, bias: Tensor, refer: Tensor, act: int, grad: int, alpha: float, scale: float) -> Tensor:
    if bias.numel():
        x = x + bias.reshape(1, -1, *[1] * (x.ndim - 2))
    return (torch.where(refer > 0, x, x * alpha) if grad else F.leaky_relu(x, alpha)) * scale


def _upfirdn2d(
    x: Tensor, kernel: Tensor, up_x: int, up_y: int, down_x: int, down_y: int, px0: int, px1: int, py0: int, py1: int
) -> Tensor:
    n, h, w, minor = x.shape
    x = x.permute(0, 3, 1, 2).reshape(n * minor, 1, h, w)
    apart = x.new_zeros(n * minor, 1, h * up_y, w * up_x)
    apart[:, :, ::up_y, ::up_x] = x
    padded = F.pad(apart, (px0, px1, py0, py1))
    y = F.conv2d(padded, kernel.flip(0, 1)[None, None].to(x))[:, :, ::down_y, ::down_x]
    return y.reshape(n, minor, *y.shape[2:]).permute(0, 2, 3, 1)


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every module of packages that are not installed; whatever is asked of them is an empty class."""

    NAMES = (
        "open_clip", "timm", "vector_quantize_pytorch", "fire", "kornia", "dareblopy", "tqdm", "aim", "termcolor", "cv2",
    )  # fmt: skip

    def __init__(self) -> None:
        self.names = [name for name in self.NAMES if importlib.util.find_spec(name) is None]

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.split(".")[0] in self.names or name in ("basicsr.ops.dcn",):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class _Empty(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def _shell(name: str, folder: Path) -> None:
    """A package whose modules can be imported without what its __init__ does."""
    module = _Empty(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module


def _quiet_start(folder: Path) -> None:
    sys.path.insert(0, str(folder))
    os.chdir(folder)
    os.environ["BASICSR_JIT"] = "True"
    ops = types.SimpleNamespace(fused_bias_act=_fused_bias_act, upfirdn2d=_upfirdn2d)
    torch.utils.cpp_extension.load = lambda *_, **__: ops
    sys.meta_path.append(_Absent())
    if importlib.util.find_spec("pkg_resources") is None:  # setuptools has dropped it
        old: Any = types.ModuleType("pkg_resources")
        old.parse_version = packaging.version.parse
        sys.modules["pkg_resources"] = old
    torch.manual_seed(0)


def _spread(module: nn.Module, name: str) -> None:
    """Gives an average of y that was never updated some values."""
    holder, _, last = name.rpartition(".")
    with torch.no_grad():
        getattr(module.get_submodule(holder), last).normal_(0, 0.3)


def _dump(value: Any) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        path.with_suffix(".pkl").write_bytes(pickle.dumps(value))

    return save


def _torch(value: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(value, path.with_suffix(".pt"))


# The programs


def _nvlabs(module: nn.Module, layers: int, side: int, average: str = "mapping.w_avg") -> Program:
    module = module.eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.1)
    _spread(module, average)
    c = torch.zeros(1, 0)

    def own(z: Tensor, psi: float) -> Any:
        return module(z, c, truncation_psi=psi, noise_mode="const")

    save = _dump({"G": module, "D": None, "G_ema": module, "training_set_kwargs": {}, "augment_pipe": None})
    return Program(module, own, (32, 32, layers, (side, side), 3), save)


def _stylegan2_ada() -> Program:
    Generator = importlib.import_module("training.networks").Generator

    sizes = {"mapping_kwargs": {"num_layers": 4}, "synthesis_kwargs": {"channel_base": 512, "channel_max": 32}}
    return _nvlabs(Generator(32, 0, 32, 32, 3, **sizes), 8, 32)


def _stylegan3(kind: str) -> Program:
    Generator = importlib.import_module("training.networks_stylegan3").Generator

    extra = {"conv_kernel": 1, "use_radial_filters": True} if kind == "r" else {}
    module = Generator(
        32, 0, 32, 32, 3, channel_base=512, channel_max=16, num_layers=6, num_critical=1, margin_size=4, **extra
    )  # fmt: skip
    return _nvlabs(module, 8, 32)


def _stylegan_xl() -> Program:
    Generator = importlib.import_module("training.networks_stylegan3_resetting").Generator

    module = Generator(
        32, 0, 32, 32, 3, channel_base=512, channel_max=16, num_layers=6, num_critical=1, margin_size=4,
        conv_kernel=1, use_radial_filters=False,
    )  # fmt: skip
    return _nvlabs(module, 8, 32)


def _stylegan_xl_classes() -> Program:
    Generator = importlib.import_module("training.networks_stylegan3_resetting").Generator

    module = Generator(
        32, 10, 32, 32, 3, channel_base=512, channel_max=16, num_layers=6, num_critical=1, margin_size=4,
        conv_kernel=1, use_radial_filters=False,
    ).eval()  # fmt: skip
    _spread(module, "mapping.w_avg")

    def own(z: Tensor, psi: float) -> Any:
        return module(z, torch.eye(10)[3].expand(len(z), -1), truncation_psi=psi)

    return Program(
        module, own, (32, 32, 8, (32, 32), 3), _dump({"G_ema": module}), lambda: lia_adapter.wrap(module, label=3),
        "`wrap(G, label=3)`",
    )  # fmt: skip


def _stylegan_t() -> Program:
    Generator = importlib.import_module("networks.generator").Generator

    kwargs = {"channel_base": 1024, "channel_max": 32, "num_fp16_res": 0, "num_res_blocks": 1}
    module = Generator(32, False, 32, synthesis_kwargs=kwargs).eval()
    _spread(module, "mapping.x_avg")

    def own(z: Tensor, psi: float) -> Any:
        return module(z, None, truncation_psi=psi, noise_mode="const")

    return Program(module, own, (32, 32, module.num_ws, (32, 32), 3), _dump({"G_ema": module}))


def _projected_gan() -> Program:
    Generator = importlib.import_module("pg_modules.networks_fastgan").Generator

    module = Generator(z_dim=32, img_resolution=128, ngf=8).eval()
    return Program(
        module, lambda z, psi: module(z, None), (32, 32, 1, (128, 128), 3), _dump({"G_ema": module}), random=True, psi=1.0
    )  # fmt: skip


def _eg3d() -> Program:
    TriPlaneGenerator = importlib.import_module("training.triplane").TriPlaneGenerator

    rendering = {
        "image_resolution": 128, "disparity_space_sampling": False, "clamp_mode": "softplus",
        "superresolution_module": "training.superresolution.SuperresolutionHybrid2X", "c_gen_conditioning_zero": False,
        "c_scale": 1, "superresolution_noise_mode": "none", "density_reg": 0.25, "reg_type": "l1", "sr_antialias": True,
        "depth_resolution": 4, "depth_resolution_importance": 4, "ray_start": 2.25, "ray_end": 3.3, "box_warp": 1,
    }  # fmt: skip
    sizes = {"mapping_kwargs": {"num_layers": 2}, "channel_base": 512, "channel_max": 16, "num_fp16_res": 0}
    module = TriPlaneGenerator(
        32, 25, 512, 128, 3, rendering_kwargs=rendering, sr_kwargs={"channel_base": 512, "channel_max": 16}, **sizes
    ).eval()  # fmt: skip
    module.neural_rendering_resolution = 16
    _spread(module, "backbone.mapping.w_avg")
    camera = torch.cat([torch.eye(4).flatten(), torch.tensor([4.2647, 0, 0.5, 0, 4.2647, 0.5, 0, 0, 1])])
    camera[11] = 2.7

    def own(z: Tensor, psi: float) -> Any:
        return module(z, camera.expand(len(z), -1), truncation_psi=psi, noise_mode="random")["image"]

    return Program(
        module, own, (32, 512, 14, (128, 128), 3), _dump({"G_ema": module}), lambda: lia_adapter.wrap(module, label=camera),
        "`wrap(G, label=camera)`", random=True,
    )  # fmt: skip


def _studiogan() -> Program:
    Generator = importlib.import_module("models.stylegan2").Generator

    model = types.SimpleNamespace(info_type="N/A", g_info_injection="N/A")
    sizes = {"mapping_kwargs": {"num_layers": 4}, "synthesis_kwargs": {"channel_base": 512, "channel_max": 32}}
    program = _nvlabs(Generator(32, 0, 32, 32, 3, model, **sizes), 8, 32)
    program.save = _torch({"state_dict": program.module.state_dict(), "step": 1, "seed": 0, "epoch": 0})
    return program


def _listed(module: nn.Module, side: int, save: Callable[[Path], None], style: str) -> Program:
    module = module.eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "noise" in name or name.endswith(".weight") and parameter.numel() == 1:
                parameter.fill_(0.1)
    dim = 32
    mean = torch.randn(1, dim) * 0.3

    def own(z: Tensor, psi: float) -> Any:
        return module([z], truncation=psi, truncation_latent=mean, randomize_noise=False)[0]

    return Program(module, own, (dim, dim, 2 * int(np.log2(side)) - 2, (side, side), 3), save, psi=1.0)


def _rosinality() -> Program:
    Discriminator = importlib.import_module("model").Discriminator
    Generator = importlib.import_module("model").Generator

    module = Generator(8, 32, 4, channel_multiplier=1)
    saved = {"g": module.state_dict(), "d": Discriminator(8).state_dict(), "g_ema": module.state_dict()}
    return _listed(module, 8, _torch(saved), "style")


def _basicsr() -> Program:
    for name in ("", ".archs", ".ops", ".utils"):
        _shell(f"basicsr{name}", Path("basicsr", *name.split(".")).resolve())
    StyleGAN2Generator = importlib.import_module("basicsr.archs.stylegan2_arch").StyleGAN2Generator

    module = StyleGAN2Generator(32, num_style_feat=32, num_mlp=4, channel_multiplier=1, narrow=0.0625)
    return _listed(module, 32, _torch({"params": module.state_dict(), "params_ema": module.state_dict()}), "style_mlp")


def _gfpgan() -> Program:
    other = Path("..", "XPixelGroup+BasicSR", "basicsr").resolve()
    for name in ("", ".archs", ".ops", ".utils"):
        _shell(f"basicsr{name}", other.joinpath(*name.split(".")))
    for name in ("", ".archs"):
        _shell(f"gfpgan{name}", Path("gfpgan", *name.split(".")).resolve())
    StyleGAN2GeneratorClean = importlib.import_module("gfpgan.archs.stylegan2_clean_arch").StyleGAN2GeneratorClean

    module = StyleGAN2GeneratorClean(32, num_style_feat=32, num_mlp=4, channel_multiplier=1, narrow=0.0625)
    return _listed(module, 32, _torch({"params": module.state_dict(), "params_ema": module.state_dict()}), "style_mlp")


def _genforce() -> Program:
    StyleGAN2Generator = importlib.import_module("models.stylegan2_generator").StyleGAN2Generator

    module = StyleGAN2Generator(32, z_space_dim=32, w_space_dim=32, mapping_layers=4, mapping_fmaps=32, fmaps_max=16).eval()
    _spread(module, "truncation.w_avg")

    def own(z: Tensor, psi: float) -> Any:
        return module(z, trunc_psi=psi, trunc_layers=8, randomize_noise=False)["image"]

    state = {"generator": module.state_dict(), "generator_smooth": module.state_dict()}
    return Program(module, own, (32, 32, 8, (32, 32), 3), _torch({"models": state, "running_metadata": {"iter": 1}}))


def _hammer() -> Program:
    StyleGAN2Generator = importlib.import_module("models.stylegan2_generator").StyleGAN2Generator

    module = StyleGAN2Generator(
        z_dim=32, w_dim=32, mapping_layers=4, mapping_fmaps=32, resolution=32, fmaps_max=16
    ).eval()  # fmt: skip
    _spread(module, "w_avg")

    def own(z: Tensor, psi: float) -> Any:
        return module(z, trunc_psi=psi, trunc_layers=8, noise_mode="const", impl="ref")["image"]

    state = {"generator": module.state_dict(), "generator_smooth": module.state_dict()}
    return Program(module, own, (32, 32, 8, (32, 32), 3), _torch({"models": state, "running_metadata": {"iter": 1}}))


def _lucidrains() -> Program:
    kept, has_gpu = nn.Module.cuda, torch.cuda.is_available
    setattr(torch.cuda, "is_available", lambda: True)  # noqa: B010  (it asks when it is imported)
    setattr(nn.Module, "cuda", lambda self, *_: self)  # noqa: B010
    program: Any = importlib.import_module("stylegan2_pytorch.stylegan2_pytorch")

    if isinstance(program.filter2d, type):  # kornia is not here
        program.filter2d = lambda x, k, normalized: F.conv2d(
            F.pad(x, (1, 1, 1, 1), mode="reflect"), (k / k.sum())[:, None].expand(x.shape[1], 1, 3, 3), groups=x.shape[1]
        )
    module = program.StyleGAN2(32, latent_dim=32, style_depth=4, network_capacity=2).eval()
    setattr(nn.Module, "cuda", kept)  # noqa: B010
    setattr(torch.cuda, "is_available", has_gpu)  # noqa: B010

    def own(z: Tensor, psi: float) -> Any:
        styles = module.SE(z)[:, None].expand(-1, module.GE.num_layers, -1)
        return module.GE(styles, torch.rand(len(z), 32, 32, 1))

    save = _torch({"GAN": module.state_dict(), "version": "1.9.0"})
    return Program(module, own, (32, 32, 4, (32, 32), 3), save, line="`wrap(GAN)`", random=True, psi=1.0)


def _cips() -> Program:
    tensor_transforms = importlib.import_module("tensor_transforms")
    CIPSskip = importlib.import_module("model").CIPSskip

    module = CIPSskip(size=8, hidden_size=16, n_mlp=4, style_dim=32, channel_multiplier=1).eval()

    def own(z: Tensor, psi: float) -> Any:
        coords = tensor_transforms.convert_to_coord_format(len(z), 8, 8, integer_values=False)
        return module(coords, [z])[0]

    save = _torch({"g": module.state_dict(), "d": {}, "g_ema": module.state_dict()})
    return Program(module, own, (32, 32, 1, (8, 8), 3), save, psi=1.0)


def _stylemapgan() -> Program:
    Generator = importlib.import_module("training.model").Generator

    module = Generator(32, 4, 8, 8, 0.01, 1, "LayerNorm", small_generator=True).eval()
    save = _torch({"g": module.state_dict(), "g_ema": module.state_dict()})
    return Program(module, lambda z, psi: module(z)[0], (8, 512, 1, (32, 32), 3), save, psi=1.0)


def _styleswin() -> Program:
    layers: Any = importlib.import_module("timm.models.layers")

    if not callable(getattr(layers, "trunc_normal_", None)) or isinstance(layers.trunc_normal_, type):
        layers.trunc_normal_ = nn.init.trunc_normal_
        layers.to_2tuple = lambda x: (x, x)
    Generator = importlib.import_module("models.generator").Generator

    module = Generator(8, 32, 4, channel_multiplier=1).eval()
    save = _torch({"g": module.state_dict(), "g_ema": module.state_dict()})
    return Program(module, lambda z, psi: module(z)[0], (32, 32, 4, (8, 8), 3), save, psi=1.0)


def _alae() -> Program:
    Model = importlib.import_module("model").Model

    module = Model(
        startf=8, maxf=16, layer_count=4, latent_size=32, mapping_layers=4, dlatent_avg_beta=0.995, truncation_psi=0.7,
        truncation_cutoff=8, generator="GeneratorDefault", encoder="EncoderDefault",
    ).eval()  # fmt: skip
    _spread(module, "dlatent_avg.buff")
    with torch.no_grad():
        module.dlatent_avg.buff.copy_(module.dlatent_avg.buff[:1].expand_as(module.dlatent_avg.buff))
    module.dlatent_avg_beta = None  # or its own call would move the average

    def own(z: Tensor, psi: float) -> Any:
        module.truncation_psi = psi
        return module.generate(3, 1, z=z, mixing=False, noise=True)

    save = _torch({"models": {"discriminator_s": module.state_dict(), "mapping_fl_s": module.mapping_f.state_dict()}})
    return Program(module, own, (32, 32, 8, (32, 32), 3), save, random=True)


def _huangzh13() -> Program:
    sys.modules["data"] = _Empty("data")
    Generator = importlib.import_module("models.GAN").Generator

    module = Generator(32, mapping_layers=4, fmap_max=16).eval()
    _spread(module, "truncation.avg_latent")

    return Program(module, lambda z, psi: module.g_synthesis(module.g_mapping(z), 3, 1), (512, 512, 8, (32, 32), 3),
                   _torch(module.state_dict()), random=True, psi=1.0)  # fmt: skip


PROGRAMS: dict[str, tuple[str, Callable[[], Program]]] = {
    "NVlabs/stylegan2-ada-pytorch": ("", _stylegan2_ada),
    "NVlabs/stylegan3 (t)": ("", lambda: _stylegan3("t")),
    "NVlabs/stylegan3 (r)": ("", lambda: _stylegan3("r")),
    "autonomousvision/stylegan-xl": ("", _stylegan_xl),
    "autonomousvision/stylegan-xl (10 classes)": ("", _stylegan_xl_classes),
    "autonomousvision/stylegan-t": ("", _stylegan_t),
    "autonomousvision/projected-gan": ("", _projected_gan),
    "NVlabs/eg3d": ("eg3d", _eg3d),
    "POSTECH-CVLab/PyTorch-StudioGAN": ("src", _studiogan),
    "rosinality/stylegan2-pytorch": ("", _rosinality),
    "XPixelGroup/BasicSR": ("", _basicsr),
    "TencentARC/GFPGAN": ("", _gfpgan),
    "genforce/genforce": ("", _genforce),
    "bytedance/Hammer": ("", _hammer),
    "lucidrains/stylegan2-pytorch": ("", _lucidrains),
    "saic-mdal/CIPS": ("", _cips),
    "naver-ai/StyleMapGAN": ("", _stylemapgan),
    "microsoft/StyleSwin": ("", _styleswin),
    "podgorskiy/ALAE": ("", _alae),
    "huangzh13/StyleGAN.pytorch": ("", _huangzh13),
}

COLUMNS = (
    "program", "wrapped by", "z, y, layers, image", "image error", "convert", "saved, loaded", "encode 10", "invert 2",
    "its own file", "ops.patch",
)  # fmt: skip


def image_error(program: Program, g: WrappedGenerator) -> str:
    """Largest difference to the program's own images, with and without truncation."""
    z, errors, lia = torch.randn(2, g.z_dim, generator=torch.Generator().manual_seed(1)), [], LIA(g)
    for psi in {1.0, program.psi}:
        with torch.no_grad():
            torch.manual_seed(7)
            wanted = program.own(z, psi)
            torch.manual_seed(7)
            found = lia.synthesize(lia.to_y(z), psi=psi, noise_mode="random" if program.random else "const")
        errors.append(float((wanted - found).abs().max()))
    return f"{max(errors):.0e}" + (", psi too" if program.psi != 1 else "")


def row(name: str, folder: Path) -> list[str]:
    """The row of one program."""
    cells = [name]
    program: Program = PROGRAMS[name][1]()
    with contextlib.redirect_stdout(io.StringIO()):
        g = program.wrap()
    sizes = (g.z_dim, g.y_dim, g.num_ws, g.resolution, g.channels)
    text = f"{g.z_dim}, {g.y_dim}, {g.num_ws}, {g.channels}×{g.resolution[1]}×{g.resolution[0]}"
    cells += [program.line, text if sizes == program.sizes else f"{text}; WRONG, {program.sizes}"]
    cells.append(image_error(program, g))
    lia = lia_adapter.convert(g, overrides=CONVERT)
    cells.append(f"{lia.metrics['coupling']}, seeds {lia.metrics['seeds_raw']['value']:.2f}")
    pictures = folder / "pictures"
    pictures.mkdir()
    images = lia.sample(range(10), psi=1.0)
    for i, x in enumerate(images):
        pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(pictures / f"{i}.png")
    trained = lia_adapter.train_encoder(lia, pictures, overrides=ENCODER)
    trained.save(folder / "a.safetensors")
    again = load(folder / "a.safetensors", generator=program.wrap())
    codes, wanted = again.encode(images), trained.encode(images)
    cells.append(f"{float((codes - wanted).abs().max()):.0e}")
    cells.append(f"mse {float((again.reconstruct(images) - images).square().mean()):.3f}")
    found = again.invert(images[:2], steps=5)
    cells.append(f"loss {float(found.loss.mean()):.3f}")
    cells.append(own_file(program, folder))
    cells.append(patched(program, g))  # last: from then on its program runs on our ops
    return cells


def patched(program: Program, g: WrappedGenerator) -> str:
    """What images of the program change by where it runs on our fused ops."""
    z = torch.randn(2, g.z_dim, generator=torch.Generator().manual_seed(1))

    def draw() -> torch.Tensor:
        torch.manual_seed(7)
        with torch.no_grad():
            drawn: torch.Tensor = program.own(z, 1.0)
        return drawn

    before = draw()
    try:
        with patch(g.guests[0]):
            return f"image error {float((draw() - before).abs().max()):.0e}"
    except WrapError:
        return "no op of it is known"


def own_file(program: Program, folder: Path) -> str:
    """Whether the file that the program saves is read, and whether it draws the same images; else why not."""
    if program.save is None:
        return "not tried"
    program.save(folder / "own")
    (path,) = folder.glob("own.*")
    found = inspect_file(path)
    if found.checkpoint is None:
        return f"refused: {(found.problem or '')[:140]}"
    if program.random:
        return f"read: {found.checkpoint.family}"
    z = torch.randn(2, program.sizes[0], generator=torch.Generator().manual_seed(1))
    plain = load(path)
    c = torch.eye(plain.generator.c_dim)[[3, 3]] if plain.generator.c_dim else None  # the class that was wrapped
    with torch.no_grad():
        error = float((plain.synthesize(plain.to_y(z, c)) - program.own(z, 1.0)).abs().max())
    return f"read: {found.checkpoint.family}, image error {error:.0e}"


def _run(name: str, root: Path, send: Any) -> None:
    os.setsid()
    try:
        repository, inner = name.split(" ")[0].replace("/", "+"), PROGRAMS[name][0]
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            _quiet_start(root / repository / inner)
            cells = row(name, Path(folder))
    except BaseException as error:
        traceback.print_exc()
        cells = [name, f"FAILED: {type(error).__name__}: {str(error)[:300]}"]
    send.send(cells)


def main() -> None:
    """Prints the table."""
    root, wanted = Path(sys.argv[1]).resolve(), sys.argv[2:]
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    fork = multiprocessing.get_context("fork")  # each program in a process of its own: their packages share names
    for name in PROGRAMS:
        here = (root / name.split(" ")[0].replace("/", "+")).exists()
        if not here or (wanted and not any(part in name for part in wanted)):
            continue
        receive, send = fork.Pipe(duplex=False)
        process = fork.Process(target=_run, args=(name, root, send))
        process.start()
        cells = receive.recv()
        process.join()
        print(f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()

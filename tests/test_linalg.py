"""Linear algebra against torch's own and against what defines it."""

import torch

from lia_adapter.linalg import covariance_root, procrustes, solve_rows, symmetric_root


def test_covariance_root_and_procrustes_are_exact() -> None:
    torch.manual_seed(0)
    y = torch.randn(500, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64) + 3
    mean, root = covariance_root(y)
    assert torch.allclose(root @ root, torch.cov(y.t()))
    assert torch.allclose(root, root.t())
    assert torch.allclose(mean, y.mean(dim=0))
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    assert torch.allclose(procrustes(y, y @ rotation), rotation)


def test_covariance_root_of_a_flat_set_can_be_inverted() -> None:
    flat = torch.randn(100, 2) @ torch.randn(2, 6)
    assert torch.isfinite(torch.linalg.inv(covariance_root(flat)[1])).all()


def test_symmetric_root_raises_what_is_too_small() -> None:
    basis = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    values = torch.tensor([-1e-9, 1e-9, 4.0, 9.0], dtype=torch.float64)
    matrix = basis @ torch.diag(values) @ basis.t()
    for floor, least in ((0.0, 1e-9), (1e-2, 0.09)):
        found = torch.linalg.eigvalsh(symmetric_root(matrix, least=floor)).square()
        expected = torch.tensor([0.0 if floor == 0 else least, least, 4.0, 9.0], dtype=torch.float64)
        assert torch.allclose(found, expected, atol=1e-12)


def test_solve_rows_undoes_a_product() -> None:
    matrix, x = torch.randn(5, 5, dtype=torch.float64) + 3 * torch.eye(5), torch.randn(7, 5, dtype=torch.float64)
    assert torch.allclose(solve_rows(matrix, x @ matrix.t()), x)

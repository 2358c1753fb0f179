from importlib.metadata import requires, version


def test_the_installed_distribution_names_its_compiled_kernel_dependency() -> None:
    assert version("expertstream")
    assert any(r.startswith("numba") for r in requires("expertstream") or [])

from __future__ import annotations

from advise_ray.config import commented, load, overrides_of, recipes


def test_a_commented_recipe_is_the_same_configuration(tmp_path):
    awkward = {
        "data.manifest": str(tmp_path / 'a #b: "c" ä.parquet'),
        "model.init_from": None,
        "model.ifm.weights": "no",
    }
    config = load(recipes.find("finetune_footage"), overrides_of(awkward))
    comments = {"data": "Why: a # in it. " * 20, "task": "", "seed": "kept", "tracking": "has no values"}
    path = tmp_path / "recipe.yaml"
    path.write_text(commented(config, comments, ["Head.", "", "  advise-ray train"]))
    assert load(path) == config
    lines = path.read_text().splitlines()
    assert lines[:4] == ["# Head.", "#", "#   advise-ray train", ""]
    assert max(map(len, lines)) <= 120
    assert "# kept\nseed: 0\n" in path.read_text()
    assert "has no values" not in path.read_text()
    assert "grad_clip" not in path.read_text()  # a default

"The recipe for many GPUs says how large it is; what it says is computed here again."
import runpy

from conftest import ROOT

from aam_nb.recipe import find_recipe, load_config, recipe_head

SCRIPT = runpy.run_path(str(ROOT/"benchmarks/large_fsdp.py"))


def test_its_head_and_its_table_are_as_computed():
    config, head = load_config("large_fsdp"), recipe_head(find_recipe("large_fsdp"))
    model = SCRIPT["model_of"](config)
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in head
    for world in (2, 8): assert f"{sum(SCRIPT['memory'](model, config, world).values())/1e9:.1f} GB" in head
    assert SCRIPT["report"]() + "\n" == (ROOT/"benchmarks/results/large_fsdp.md").read_text()
    assert config.run.shard == "fsdp" and config.run.recompute


def test_shares_shrink_with_the_gpus_and_the_rest_does_not():
    config = load_config("large_fsdp")
    model = SCRIPT["model_of"](config)
    one, four = (list(SCRIPT["memory"](model, config, o).values()) for o in (1, 4))
    assert four[0] == one[0]/4 and four[1:] == one[1:]
    assert one[0] == 20*sum(p.numel() for p in model.parameters())

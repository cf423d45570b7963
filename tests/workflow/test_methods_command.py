"""`lisa-bench methods`: what it prints is what methods say of themselves, and what preparing a model really gives."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import baselines
from baselines import contract
from tests.models import tiny_gpt2, tiny_llama
from tests.shipped import own_methods
from workflow import cli
from workflow.commands import methods, methods_text

README = Path(baselines.__file__).parents[1] / "README.md"
ADAMW = contract.AdamWSettings()


@pytest.fixture(autouse=True)
def this_process_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `prepare_process` changes in its own process is changed back."""
    for name in ("OMP_NUM_THREADS", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    with warnings.catch_warnings():
        yield


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A folder with the configuration of the contract's tiny Llama."""
    tiny_llama().config.save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch):
    """Leaves the registry these methods; a class stands for a file of its name."""

    def leave(*names: str, **made: type[contract.Method]) -> None:
        for name, kind in made.items():
            module = types.ModuleType(f"baselines.{name}", f"{name}: a method for tests.")
            module.Method = kind
            monkeypatch.setitem(sys.modules, f"baselines.{name}", module)
        monkeypatch.setattr(baselines, "names", lambda: sorted([*names, *made]))

    return leave


def answered(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What stands on stdout after a command that ended well."""
    assert cli.main(["methods", *words]) == 0
    return capsys.readouterr().out


def row(name: str, text: str) -> list[str]:
    """The cells of the row of a method."""
    line = next(line for line in text.splitlines() if line.startswith(f"  {name} "))
    return re.split(r" {2,}", line.strip())


class Stub(contract.Method):
    """A method that is full fine-tuning."""

    summary, paper = "everything", "Nobody 2026, arXiv 2601.00001"
    learning_rates, default_learning_rate = (1e-3,), 1e-3
    family, implementation = "full", "ours"


def test_every_method_has_its_row_in_the_order_of_families(tiny, capsys):
    found = json.loads(answered(["--model", tiny, "--json"], capsys))["methods"]
    assert [entry["name"] for entry in found] == sorted(
        baselines.names(), key=lambda name: (contract.FAMILIES.index(baselines.method_class(name).family), name)
    )
    assert all(set(found[0]) == set(entry) for entry in found)
    assert [entry["name"] for entry in found if entry["status"] == "does not train"] == ["vanilla"]
    for entry in found:
        kind = baselines.method_class(entry["name"])
        assert entry["limits"] == kind.limits() and entry["paper"] == kind.paper
        assert (entry["state_bytes"] is None) == (entry["status"] != "ok")
        assert entry["status"] in ("ok", "does not train") or entry["reason"]


def test_every_key_of_json_is_explained(tiny, only, capsys):
    only("full")
    found = json.loads(answered(["--model", tiny, "--json"], capsys))
    assert [key for key in [*found, *found["methods"][0]] if key not in methods.__doc__] == []


@pytest.mark.parametrize(("name", "precision"), [("lora", "bf16"), ("lisa", "fp32"), ("galore", "bf16")])
def test_figures_are_those_of_a_real_model(name, precision, tiny, only, capsys):
    """Counted without data as on a model with data."""
    only(name)
    found = json.loads(answered([name, "--model", tiny, "--precision", precision, "--json"], capsys))
    method = baselines.build(name, {}, ADAMW, 0)
    plain = tiny_llama().to({"bf16": torch.bfloat16, "fp32": torch.float32}[precision])
    parameters = sum(p.numel() for p in plain.parameters())
    model = method.prepare(plain)
    kept = method.optimizer(model, 1e-3)
    method.before_step(0)
    counts = method.trainable_parameters(model)
    assert found["parameters"] == parameters and kept is not None
    assert found["methods"][0]["trainable_parameters"] == counts
    assert found["methods"][0]["trainable_share"] == counts["total"] / parameters
    assert found["methods"][0]["state_bytes"] == method.state_bytes(model) > 0


def test_a_refused_model_a_missing_package_and_a_skeleton_say_so(tiny, only, capsys):
    class Choosy(Stub):
        def check(self, config):
            raise ValueError("Model type 'llama' has no pockets.")

    class Needy(Stub):
        def prepare(self, model):
            importlib.import_module("no_such_package_anywhere")

    class Open(Stub):
        def prepare(self, model):
            raise NotImplementedError("baselines/open.py: prepare() must freeze or wrap the loaded model")

    class Untold(Stub):
        summary, family = "TODO: what trains", "TODO: one of contract.FAMILIES"

    only("vanilla", choosy=Choosy, needy=Needy, open=Open, untold=Untold)
    text = answered(["--model", tiny], capsys)
    assert row("choosy", text)[2] == "refused" and "refused: Model type 'llama' has no pockets." in text
    assert row("needy", text)[2] == "no package" and "No module named 'no_such_package_anywhere'" in text
    assert row("open", text)[2] == "unfilled" and "not filled in: baselines/open.py: prepare()" in text
    assert row("untold", text)[2] == "unfilled" and "summary, family of baselines/untold.py still TODO" in text
    assert "not filled in: summary" in answered(["untold", "--model", tiny], capsys)
    assert "untold" not in answered(["--markdown"], capsys)


def test_a_model_that_only_prepare_can_refuse_leaves_the_other_rows(tiny, only, capsys):
    class Late(Stub):
        def prepare(self, model):
            raise ValueError("The layers of 'llama'\nhave no pockets.")

    only("full", late=Late)
    text = answered(["--model", tiny], capsys)
    assert row("late", text)[2] == "refused" and "refused: The layers of 'llama' have no pockets." in text
    assert row("full", text)[3] == "100.000%"


def test_an_error_of_a_method_is_not_taken_for_a_skeleton(tiny, only):
    class Broken(Stub):
        def prepare(self, model):
            raise NotImplementedError("this operator has no kernel")

    only(broken=Broken)
    with pytest.raises(NotImplementedError, match="no kernel"):
        cli.main(["methods", "--model", tiny])


def test_a_method_that_chooses_by_data_is_counted_after_it_chose(tiny, only, capsys):
    class Chooser(Stub):
        def prepare(self, model):
            self.model = model
            return model

        def calibrate(self, model, batches):
            model(**batches[0]).loss.backward()
            for name, p in model.named_parameters():
                p.requires_grad_(p.grad is not None and name.endswith("norm.weight"))

    only(chooser=Chooser)
    found = json.loads(answered(["--model", tiny, "--json"], capsys))["methods"][0]
    norms = [p.numel() for name, p in tiny_llama().named_parameters() if name.endswith("norm.weight")]
    assert found["trainable_parameters"]["total"] == sum(norms)


def test_the_table_has_limits_with_reasons_and_the_letters(tiny, only, capsys):
    only("full", "badam", "lisa")
    text = answered(["--model", tiny], capsys)
    assert row("lisa", text)[1] == "2403.17919" and row("full", text)[3] == "100.000%"
    assert f"badam  full limit: {baselines.method_class('badam').limits()['full limit']}" in text
    assert all(f"  {letter} " in text and meaning in text for letter, meaning in contract.STATE_LETTERS.items())
    families = [line for line in text.splitlines() if line in contract.FAMILIES]
    assert families == ["full", "block-wise"]


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_it_is_as_wide_as_the_terminal_within_bounds(columns, tiny, only, monkeypatch, capsys):
    only("full", "galore", "badam", "bitfit")
    monkeypatch.setenv("COLUMNS", str(columns))
    widest = max(map(len, answered(["--model", tiny], capsys).splitlines()[1:]))  # the first has the folder's name
    assert widest <= max(columns, methods_text.NARROWEST)


def test_one_method_shows_its_settings_with_their_comments(tiny, capsys):
    text = " ".join(answered(["lora", "--model", tiny], capsys).split())
    assert "rank 128" in text and "alpha 256.0 the product is scaled by alpha / rank" in text
    assert "Hu et al. 2021" in text and f"{baselines.method_class('lora').default_learning_rate:g} where" in text
    for name in baselines.names():
        settings = methods_text._settings(baselines.method_class(name).Hyperparameters)
        assert list(settings) == [f.name for f in dataclasses.fields(baselines.method_class(name).Hyperparameters)]


def test_a_family_alone_is_shown(tiny, capsys):
    found = json.loads(answered(["--family", "block-wise", "--model", tiny, "--json"], capsys))["methods"]
    assert {"badam", "lisa"} <= {entry["name"] for entry in found}
    assert {entry["family"] for entry in found} == {"block-wise"}


def test_gpt2_is_counted_with_its_tied_head_once(tmp_path, only, capsys):
    tiny_gpt2().config.save_pretrained(tmp_path)
    only("full")
    found = json.loads(answered(["--model", str(tmp_path), "--json"], capsys))
    assert found["parameters"] == sum(p.numel() for p in tiny_gpt2().parameters())
    assert found["methods"][0]["trainable_share"] == 1


def test_papers_become_links():
    assert methods_text.CITED.sub(r"[\1](\2)", "Hu 2021, arXiv 2106.09685; Wu 2023, arXiv 2312.03732") == (
        "[Hu 2021](2106.09685); [Wu 2023](2312.03732)"
    )


def test_the_readmes_table_is_the_commands(capsys):
    """`lisa-bench methods --markdown` prints what stands between README's markers."""
    table = re.search(r"<!-- methods -->\n(.*?)<!-- /methods -->", README.read_text(encoding="utf-8"), re.DOTALL)
    assert table is not None, "README.md has no <!-- methods --> ... <!-- /methods -->"
    printed = answered(["--markdown"], capsys).strip().splitlines()
    own = tuple(f"| `{name}` |" for name in own_methods())
    assert table[1].strip().splitlines() == [line for line in printed if not line.startswith(own)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["lsia"], "Unknown method 'lsia'. Did you mean 'lisa'"),
        (["contract"], "Unknown method 'contract'. .*Known: "),
        (["--family", "adapter"], "--family: unknown 'adapter'. Did you mean 'adapters'. Known: none, full, adapters"),
        (["--model", "lama-2-7b"], "Unknown model 'lama-2-7b'. Did you mean 'llama-2-7b'"),
        (["--precision", "fp8"], "--precision: invalid choice: 'fp8'"),
        (["--json", "--markdown"], "not allowed with argument"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, expected, capsys):
    try:
        code = cli.main(["methods", *words])
    except SystemExit as stop:  # argparse ends the process
        code = stop.code
    shown = capsys.readouterr()
    assert code == 2 and shown.out == ""
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1
    assert re.search(expected, shown.err)


@pytest.mark.parametrize("form", [[], ["--json"], ["--markdown"]])
def test_a_method_of_another_family_is_one_line(form, capsys):
    assert cli.main(["methods", "lora", "--family", "full", *form]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "error: Method 'lora' is of family 'adapters', not 'full'.\n")
    assert cli.main(["methods", "lora", "--family", "adapters", "--markdown"]) == 0


@pytest.mark.parametrize(
    ("name", "said", "unsaid"),
    [
        ("lomo", "state none\n", "none bytes"),
        ("vanilla", "learning rates none: it does not train", "where an experiment"),
    ],
)
def test_what_a_method_has_none_of_is_said_so(name, said, unsaid, tiny, capsys):
    assert cli.main(["methods", name, "--model", tiny]) == 0
    shown = re.sub(r" +", " ", capsys.readouterr().out)
    assert said in shown and unsaid not in shown

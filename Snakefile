# lisa-bench: fine-tune with every method, measure, evaluate, judge, report; or, with `kind: memory`, predict and measure the memory of a step.
# `snakemake --cores all` runs config/smoke.yaml; `--configfile config/<other>.yaml` another experiment.
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")
sys.path.insert(0, workflow.basedir)


# the default experiment only when none is named: Snakemake would merge the two key by key
if not workflow.configfiles:

    configfile: "config/smoke.yaml"


report: "workflow/report/captions/workflow.rst"


include: "workflow/rules/common.smk"


if EXPERIMENT["kind"] == "memory":

    include: "workflow/rules/cells.smk"
    include: "workflow/rules/memory.smk"

else:

    include: "workflow/rules/runs.smk"
    include: "workflow/rules/prepare.smk"
    include: "workflow/rules/leaks.smk"
    include: "workflow/rules/continue_pretraining.smk"
    include: "workflow/rules/train.smk"
    include: "workflow/rules/tune.smk"
    include: "workflow/rules/evaluate.smk"
    include: "workflow/rules/judge.smk"
    include: "workflow/rules/noise_floor.smk"
    include: "workflow/rules/report.smk"
    include: "workflow/rules/weight_norms.smk"


localrules:
    all,


rule all:
    default_target: True
    input:
        COMPLETE,
        f"{RESULTS}/report.html",
        WEIGHT_NORMS if EXPERIMENT["kind"] == "training" else [],

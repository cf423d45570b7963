# Norms of the parts of a model under full fine-tuning and LoRA, where an experiment records them for both.


NORMS = f"{RESULTS}/{{model}}/{{data}}/weight_norms"
WEIGHT_NORMS = (
    expand(
        f"{NORMS}/{{file}}",
        model=[model["name"] for model in EXPERIMENT["models"]],
        data=[entry["name"] for entry in EXPERIMENT["data"]],
        file=("weight_norms.csv", "weights.csv", "weight_norms.svg"),
    )
    if NORMS_OF_A_RUN and {run["method"] for run in COMPARED} == {"full", "lora"}
    else []
)
COMPARING_CODE = [
    *sources("workflow/stages/weight_norms.py", "workflow/report/weight_norms.py"),
    *sources("workflow/report/drawing.py", "workflow/report/static/*.py"),
]


rule weight_norms:
    input:
        records=lambda wildcards: [f"{RESULTS}/{run['path']}/run.json" for run in compared(wildcards)],
        norms=lambda wildcards: [f"{RESULTS}/{run['path']}/weight_norms.csv" for run in compared(wildcards)],
    output:
        norms=f"{NORMS}/weight_norms.csv",
        weights=f"{NORMS}/weights.csv",
        figure=report(
            f"{NORMS}/weight_norms.svg",
            caption="../report/captions/weight_norms.rst",
            category="Figures",
            labels={"figure": "weight norms of {model} on {data}"},
        ),
    log:
        f"logs/{NAME}/{{model}}/{{data}}/weight_norms.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        runs=compared,
        code=sha256_sources(COMPARING_CODE),
    shell:
        "python -m workflow.stages.weight_norms --experiment $EXPERIMENT"
        " --model {wildcards.model} --data {wildcards.data} 2> {log}"

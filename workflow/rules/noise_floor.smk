# The noise floor of every model: its first trained run's checkpoint is evaluated twice more, where the experiment asks for it.


NOISE_FLOOR = f"{RESULTS}/{{model}}/noise_floor.json"
NOISE_FLOORS = expand(NOISE_FLOOR, model=list(MODEL_MANIFESTS)) if EXPERIMENT["evaluation"]["noise_floor"] else []


rule noise_floor:
    input:
        benchmarks=BENCHMARKS_MANIFEST,
        record=of_first_trained("run.json"),
        checkpoint=of_first_trained("model"),
        scores=of_first_trained("scores.json"),
        samples=of_first_trained("samples.jsonl.gz"),
    output:
        NOISE_FLOOR,
    log:
        f"logs/{NAME}/{{model}}/noise_floor.log",
    conda:
        "../../environment.yml"
    threads: EXPERIMENT["threads"]
    resources:
        gpu=EXPERIMENT["evaluation"]["devices"] if EXPERIMENT["device"] == "cuda" else 0,
    params:
        settings=EXPERIMENT["evaluation"]["noise_floor"],  # all others decide the scores, and so are in the inputs
        code=sha256_sources([*EVALUATION_CODE, *NOISE_CODE]),
    shell:
        "python -m workflow.stages.noise_floor --experiment $EXPERIMENT --model {wildcards.model} 2> {log}"

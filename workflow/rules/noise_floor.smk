# The noise floor of every model: the checkpoint of one run is evaluated twice more, where the experiment asks for it.


NOISE_FLOOR = f"{RESULTS}/{{model}}/noise_floor.json"
NOISE_FLOORS = expand(NOISE_FLOOR, model=list(MODEL_MANIFESTS)) if EXPERIMENT["evaluation"]["noise_floor"] else []


rule noise_floor:
    input:
        benchmarks=BENCHMARKS_MANIFEST,
        record=of_noise_floor_run("run.json"),
        checkpoint=of_noise_floor_run("model"),
        scores=of_noise_floor_run("scores.json"),
        samples=of_noise_floor_run("samples.jsonl.gz"),
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

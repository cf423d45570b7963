# One process a run that pretrains continually: its method trains on plain text, and `train` fine-tunes the result.


rule continue_pretraining:
    input:
        data=DATA_MANIFEST,
        model=model_manifest,
    output:
        record=f"{CONTINUED}/run.json",
        steps=f"{CONTINUED}/log.jsonl",
        checkpoint=directory(f"{CONTINUED}/model"),
    log:
        f"{LOGS}/continue_pretraining.log",
    conda:
        "../../environment.yml"
    threads: EXPERIMENT["threads"]
    resources:
        gpu=1 if EXPERIMENT["device"] == "cuda" else 0,
    params:
        run=run_path,
        settings=continual_settings,
    shell:
        "python -m workflow.stages.continue_pretraining --experiment $EXPERIMENT --run {params.run} 2> {log}"

# Tables and the page; when runs failed, the page is still made of what there is, and the pipeline ends non-zero.


rule report:
    input:
        records=all_runs("run.json"),
        scores=all_runs("scores.json"),
        judgments=all_runs("mt_bench.json"),
        comparisons=compared_answers("pairwise.json"),
        questions=BENCHMARKS_MANIFEST if EXPERIMENT["mt_bench"] else [],
        choices=CHOICES.values(),
        general_texts=GENERAL_TEXTS,
        noise_floors=NOISE_FLOORS,
        leaks=LEAKS,
    output:
        tables=expand(
            f"{RESULTS}/tables/{{table}}.{{kind}}",
            table=("comparison", "memory", "speed"),
            kind=("csv", "md"),
        ),
        page=f"{RESULTS}/report.html",
        answers=f"{RESULTS}/mt_bench.html" if EXPERIMENT["mt_bench"] else [],
        complete=touch(COMPLETE),  # a page of an unfinished experiment lacks it
    log:
        f"logs/{NAME}/report.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        settings=EXPERIMENT,
        code=sha256_sources(sources("eval/*.py", "workflow/report/**/*.*", "workflow/stages/report.py")),
    shell:
        "python -m workflow.stages.report --experiment $EXPERIMENT 2> {log}"


onstart:
    if ASKS_A_JUDGE:
        find_judge()
    find_backend()
    find_general_text()
    forget_former_leak(EXPERIMENT, Path(RESULTS))
    write_json(Path(DOCUMENT), EXPERIMENT)


onerror:
    Path(COMPLETE).unlink(missing_ok=True)
    shell("python -m workflow.stages.report --experiment $EXPERIMENT --partial")

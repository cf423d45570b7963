# Tables and the page; when runs failed, the page is still made of what there is, and the pipeline ends non-zero.


ANSWERS = report(
    f"{RESULTS}/mt_bench.html",
    caption="../report/captions/answers.rst",
    category="Report",
    labels={"page": "answers to MT-Bench, and judgments"},
)


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
        tables=TABLES,
        figures=FIGURES,
        page=PAGE,
        answers=ANSWERS if EXPERIMENT["mt_bench"] else [],
        complete=touch(COMPLETE),  # a page of an unfinished experiment lacks it
    log:
        f"logs/{NAME}/report.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        settings=COMPARED_SETTINGS,
        code=sha256_sources(sources(*REPORT_SOURCES, "workflow/stages/report.py")),
    shell:
        "python -m workflow.stages.report --experiment $EXPERIMENT 2> {log}"


onstart:
    if ASKS_A_JUDGE:
        find_judge()
    find_device()
    find_backend()
    find_trackers()
    find_general_text()
    forget_former_leak(EXPERIMENT, Path(RESULTS))
    write_json(Path(DOCUMENT), EXPERIMENT)


onerror:
    Path(COMPLETE).unlink(missing_ok=True)
    shell("python -m workflow.stages.report --experiment $EXPERIMENT --partial")
    print(f"Report of what there is: {RESULTS}/report.html", file=sys.stderr)


onsuccess:
    if Path(COMPLETE).exists():  # not where single files were asked for
        print(f"Report: {RESULTS}/report.html", file=sys.stderr)

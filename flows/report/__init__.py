"""The report: what was measured, on one page.

    stages' files -> content.py -> report.json -> sections.py -> layout.py, with templates/ -> report.md, report.html

plots.py draws, tokenizer.py and evaluation/ are the parts on these, evaluation/ with the table of all answers.
"""

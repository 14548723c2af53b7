"""The parts of `nanochat eval`, the evaluation of any model, which flows/evaluate_model.py puts together.

request.py says what is asked, task_data.py from which data, endpoint.py how a server is asked; paired.py holds two
models against each other, by statistics.py, and paired_table.py shows it.
"""

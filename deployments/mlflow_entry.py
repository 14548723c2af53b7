"""What MLflow runs to load a model that `mlflow_model.py` has logged; it copies this file into the model's folder."""

from deployments.mlflow_model import offer

offer()

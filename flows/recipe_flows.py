"""The pipeline once for each recipe: the same flow, with a form that stands on that recipe's values.

What a recipe derives is empty in its form, so that another depth derives another width, batch and number of steps.
prefect.yaml names these flows, so each has a line of its own.
"""

from flows.pipeline import pipeline_of
from nanochat_core.recipes import RECIPES

demo = pipeline_of(RECIPES["demo"])
classic_d20 = pipeline_of(RECIPES["classic_d20"])
classic_d26 = pipeline_of(RECIPES["classic_d26"])
classic_d30 = pipeline_of(RECIPES["classic_d30"])
classic_d32 = pipeline_of(RECIPES["classic_d32"])
speedrun = pipeline_of(RECIPES["speedrun"])
d12 = pipeline_of(RECIPES["d12"])
d14 = pipeline_of(RECIPES["d14"])
d16 = pipeline_of(RECIPES["d16"])
d18 = pipeline_of(RECIPES["d18"])
d20 = pipeline_of(RECIPES["d20"])
d22 = pipeline_of(RECIPES["d22"])
d24 = pipeline_of(RECIPES["d24"])
d26 = pipeline_of(RECIPES["d26"])
d28 = pipeline_of(RECIPES["d28"])
d30 = pipeline_of(RECIPES["d30"])
d32 = pipeline_of(RECIPES["d32"])

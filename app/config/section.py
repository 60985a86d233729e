"""A table of a recipe: what every section of the config is."""

import pydantic


class Section(pydantic.BaseModel):
    """A TOML table; unknown keys are refused."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

"""Where a study is kept unless its file says otherwise; known before a study file is."""

DATABASE = "sqlite:///studies/search.db"
MLFLOW = "sqlite:///studies/mlflow.db"

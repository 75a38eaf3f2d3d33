"""What a study is: the study file, its checks, its space, and the study as it is begun and opened."""

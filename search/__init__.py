"""The search itself: composes the other rooms; `cli` is where the story begins."""

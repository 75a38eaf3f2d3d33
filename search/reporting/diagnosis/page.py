"""The diagnosis as one HTML page that needs nothing but itself: no scripts, no other files, no network."""

from base64 import b64encode
from collections.abc import Mapping, Sequence

from jinja2 import Environment, StrictUndefined

from fold_search.search.reporting.diagnosis.sections import Section

_TEMPLATE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ lines[0] }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.5rem; margin-bottom: 0; }
  h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
  p { margin: .5rem 0; max-width: 48rem; overflow-wrap: anywhere; }
  nav { margin-top: 1rem; }
  nav a { margin-right: 1rem; white-space: nowrap; }
  img { max-width: 100%; height: auto; margin: 1rem 0; }
  .table { overflow: auto; max-height: 32rem; margin: 1rem 0; }
  table { border-collapse: collapse; font-size: .875rem; }
  th, td { padding: .2rem .75rem .2rem 0; text-align: right; vertical-align: top; border-bottom: 1px solid #eee; }
  th { position: sticky; top: 0; background: #fff; white-space: nowrap; }
  td { font-variant-numeric: tabular-nums; }
  .words { text-align: left; overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>{{ lines[0] }}</h1>
{% for line in lines[1:] %}<p>{{ line }}</p>
{% endfor -%}
<nav>{% for section in sections %}<a href="#section-{{ loop.index }}">{{ section.title }}</a> {% endfor %}</nav>
{% for section in sections %}
<h2 id="section-{{ loop.index }}">{{ section.title }}</h2>
{% for sentence in section.sentences %}<p>{{ sentence }}</p>
{% endfor -%}
{% if section.picture in images %}
<img alt="{{ section.title }}" src="data:image/png;base64,{{ images[section.picture] }}">
{% endif -%}
{% for table in section.tables %}
<div class="table"><table>
<tr>
{%- for column in table.columns %}<th{% if column in table.words %} class="words"{% endif %}>{{ column }}</th>
{%- endfor -%}
</tr>
{% for row in table.rows %}<tr>
{%- for cell in row %}<td{% if table.columns[loop.index0] in table.words %} class="words"{% endif %}>{{ cell }}</td>
{%- endfor -%}
</tr>
{% endfor %}</table></div>
{% endfor -%}
{% endfor -%}
</body>
</html>
"""


def render_page(lines: Sequence[str], sections: Sequence[Section], pictures: Mapping[str, bytes]) -> str:
    """Return the page; `lines` are its heading, and all text is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    images = {name: b64encode(png).decode() for name, png in pictures.items()}
    return environment.from_string(_TEMPLATE).render(lines=lines, sections=sections, images=images)

"""What is shown to who is not let in? Pages without a script: a form for a key, or what is wrong."""

from html import escape
from string import Template

from starlette.responses import HTMLResponse

from api.page.headers import PLAIN
from api.version import VERSION

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title · Stratamem</title>
<link rel="stylesheet" href="/admin/assets/page.css?v=$version">
<link rel="icon" href="/admin/assets/icon.svg">
</head>
<body class="bare">
<main class="bare-card">
<p class="brand"><img src="/admin/assets/icon.svg" alt="" width="24" height="24">Stratamem</p>
<h1>$title</h1>
$body
</main>
</body>
</html>
""")
_SIGN_IN = Template("""$complaint<form method="post" action="/admin/sign-in">
<input type="hidden" name="form" value="$form">
<label for="key">A key with the scope <code>admin</code></label>
<input id="key" name="key" type="password" required autofocus autocomplete="current-password" spellcheck="false"
 placeholder="sm_…" aria-describedby="hint">
<p id="hint" class="hint">Make one with <code>stratamem keys create --scopes read,admin</code>. With <code>admin</code>
alone you see everything but what was said. The key stays on the server, and this browser is signed out after 12 hours
or a restart.</p>
<button type="submit" class="primary">Sign in</button>
</form>""")


def sign_in(status: int, form: str, complaint: str | None) -> HTMLResponse:
    shown = "" if complaint is None else f'<p role="alert" class="complaint">{escape(complaint)}</p>'
    return _page(status, "Sign in", _SIGN_IN.substitute(form=escape(form), complaint=shown))


def problem(status: int, code: str, detail: str) -> HTMLResponse:
    body = f'<p class="complaint">{escape(detail)}</p><p class="hint"><code>{escape(code)}</code></p>'
    return _page(status, "This page can’t be shown", body + '<p><a href="/admin/sign-in">Sign in with a key</a></p>')


def _page(status: int, title: str, body: str) -> HTMLResponse:
    headers = {"Content-Security-Policy": f"{PLAIN}; img-src 'self'", "Cache-Control": "no-store"}
    return HTMLResponse(_PAGE.substitute(title=title, version=VERSION, body=body), status, headers)

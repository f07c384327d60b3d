"""One protocol a file: resolver, HTTP transport, certificate facts, robots grammar, HTML links. Files never import each other."""

"""One protocol a file or folder, which never import each other: DNS, HTTP, certificates, robots.txt, HTML links."""

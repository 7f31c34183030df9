"""Run folders, bundles and exported models as commit 68a5ef6 wrote them: see README.md."""

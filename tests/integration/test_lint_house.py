"""The rules of the house are held by tests/tools/lint-house; here each is broken once, and has to be named."""

import pathlib
import subprocess
import tempfile
import unittest

import harness


class LintHouse(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="siwa-lint-")
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name)

    def plant(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def lint(self, rule, *arguments):
        done = subprocess.run([harness.ROOT / "tests/tools/lint-house", "--root", self.root, *arguments, rule],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.stderr, "")
        self.assertEqual(done.returncode, 1 if done.stdout else 0)
        return done.stdout

    def test_a_tree_that_keeps_the_rules_passes(self):
        self.plant("include/verifier/jws.h", '#include "verifier/verdict.h"\n')
        self.plant("src/verifier/jws.c", '#include <jansson.h>\n#include "verifier/jws.h"\n#include "parts.h"\n')
        self.plant("src/dispatcher/outbox.c", '#include <sqlite3.h>\n#include "support/clock.h"\n')
        self.plant("src/keys/fetch.c", "#include <curl/curl.h>\n")
        self.plant("src/main.c", '#include "cli/commands.h"\n')
        self.assertEqual(self.lint("arrows"), "")

    def test_each_arrow_that_runs_the_wrong_way_is_named(self):
        for path, include, why in (
            ("src/verifier/a.c", '"support/config.h"', "verifier knows nobody"),
            ("include/support/b.h", '"verifier/jws.h"', "support knows nobody"),
            ("src/keys/c.c", '"dispatcher/outbox.h"', "keys knows support, verifier"),
            ("src/dispatcher/d.c", '"../keys/fetch_parts.h"', "dispatcher knows support, verifier"),
            ("src/listener/e.c", '"cli/call.h"', "listener knows dispatcher, keys, support, verifier"),
            ("src/main.c", '"listener/http.h"', "main.c knows cli"),
            ("src/cli/f.c", "<microhttpd.h>", "only listener may"),
            ("src/listener/g.c", "<sqlite3.h>", "only dispatcher may"),
            ("src/keys/h.c", "<curl/curl.h>", "only keys/fetch.c and cli/call.c may"),
            ("src/dispatcher/i.c", '"support/log.h"', "only support and listener and cli may"),
            ("src/helpers/j.c", '"support/log.h"', "no such room"),
        ):
            with self.subTest(path=path):
                file = self.plant(path, f"/* first line */\n#include {include}\n")
                told = self.lint("arrows")
                self.assertIn(path + ":", told)
                self.assertIn(why, told)
                file.unlink()

    def test_a_function_without_a_comment_is_named(self):
        self.plant("include/support/told.h", "/* Says a. Any thread. */\nint a(void);\nint b(void);\n\n"
                   "struct c {\n    int (*d)(void);\n};\n\n/* Two lines,\n\n * one blank. */\nstruct c *e(int f,\n"
                   "            int g);\n")
        self.assertEqual(self.lint("comments"), "")
        self.plant("include/support/silent.h", "/* Says a. */\nint a(void);\n\nconst struct h *i(void);\n")
        self.assertIn("include/support/silent.h:4: i has no comment", self.lint("comments"))

    def test_a_clock_and_a_global_in_the_verifier_are_named(self):
        objects = self.root / "obj"
        (objects / "verifier").mkdir(parents=True)

        def build(text):
            source = self.plant("src/verifier/x.c", text)
            subprocess.run(["cc", "-fPIE", "-c", "-o", objects / "verifier/x.o", source], check=True)
            return self.lint("pure", "--objects", str(objects))

        self.assertIn("no object", self.lint("pure", "--objects", str(objects)))
        self.assertEqual(build('static const char *const names[] = {"a", "b"};\n'
                               "const char *name(int i);\nconst char *name(int i) { return names[i]; }\n"), "")
        self.assertIn("uses time", build("#include <time.h>\nlong f(void) { return (long)time(0); }\n"))
        self.assertIn("variable count", build("static int count;\nint f(void) { return ++count; }\n"))
        self.assertIn("variable reserve", build("static _Thread_local int reserve;\nint f(void) { return ++reserve; }\n"))
        self.assertIn("variable count", build("static int count = 7;\nint f(void) { return ++count; }\n"))

    def test_who_reads_json_past_the_one_reader_is_named(self):
        line = "json_t *f(const char *t);\njson_t *f(const char *t) { return json_loads(t, 0, NULL); }\n"
        self.plant("src/verifier/json_text.c", line)
        self.assertEqual(self.lint("json"), "")
        self.plant("src/keys/x.c", line)
        self.assertIn("src/keys/x.c:2: calls json_loads;", self.lint("json"))

    def test_a_version_without_news_is_named(self):
        self.plant("Makefile", "VERSION := 1.2.3\n")
        self.plant("NEWS.md", "# News\n\n## 1.2.2\n")
        self.assertIn("1.2.3", self.lint("news"))
        self.plant("NEWS.md", "# News\n\n## 1.2.3, 2026-01-01\n")
        self.assertEqual(self.lint("news"), "")

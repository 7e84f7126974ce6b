"""The alerts fire for what they are there for and for nothing else; the dashboard's queries have answers."""

import json
import pathlib
import re
import subprocess
import tempfile
import unittest
import urllib.parse
import urllib.request

import harness
from harness import Apple, Daemon, wait_until

CONF = pathlib.Path(__file__).parent.parent.parent / "conf"
ALERTS = CONF / "prometheus" / "alerts.yml"
DASHBOARD = CONF / "grafana" / "dashboard.json"
DAY = 24 * 60  # minutes, the interval of the series below but for those of COARSE
COARSE = {"SiwaNotifydSilence": "1h"}  # a month by minutes would take minutes

SERIES = 'job="siwa-notifyd",instance="here"'


def series(name, values, labels=""):
    return {"series": f"{name}{{{SERIES}{',' if labels else ''}{labels}}}", "values": values}


# For each alert: series under which it fires, series under which it does not, and after how many minutes to look.
CASES = {
    "SiwaNotifydDown": ([series("up", "0x30")], [series("up", "1x30")], 20),
    "SiwaNotifydNotReady": ([series("siwa_ready", "1x5 0x20")], [series("siwa_ready", "1x5 0 1x20")], 20),
    "SiwaNotifydRestarts": ([series("siwa_start_time_seconds", "0+60x30")],
                            [series("siwa_start_time_seconds", "5x10 700x20")], 30),
    "SiwaNotifydKeysOld": ([series("siwa_key_age_seconds", "86000+60x40")],
                           [series("siwa_key_age_seconds", "3600x40"),
                            series("siwa_key_set_refreshed_timestamp_seconds", "1000x40")], 40),
    "SiwaNotifydKeysVeryOld": ([series("siwa_key_age_seconds", "900000x5")],
                               [series("siwa_key_age_seconds", "800000x5")], 5),
    "SiwaNotifydDiskFilling": ([series("siwa_disk_free_bytes", f"9000000000-10000000x{DAY}")],
                               [series("siwa_disk_free_bytes", f"9000000000x{DAY}")], 800),
    "SiwaNotifydWalGrows": ([series("siwa_database_bytes", "70000000x30", 'file="wal"')],
                            [series("siwa_database_bytes", "60000000x30", 'file="wal"'),
                             series("siwa_database_bytes", "70000000x30", 'file="main"')], 30),
    "SiwaNotifydDatabaseErrors": ([series("siwa_database_errors_total", "0x5 1x5", 'kind="full"')],
                                  [series("siwa_database_errors_total", "7x10", 'kind="full"')], 8),
    "SiwaNotifydSlowCommits": ([series("siwa_commit_seconds_bucket", "0+1x60", 'le="1"'),
                                series("siwa_commit_seconds_bucket", "0+100x60", 'le="5"'),
                                series("siwa_commit_seconds_bucket", "0+100x60", 'le="+Inf"')],
                               [series("siwa_commit_seconds_bucket", "0+100x60", 'le="1"'),
                                series("siwa_commit_seconds_bucket", "0+100x60", 'le="5"'),
                                series("siwa_commit_seconds_bucket", "0+100x60", 'le="+Inf"')], 40),
    "SiwaNotifydConsumerLags": ([series("siwa_consumer_lag_seconds", "3500+60x30", 'consumer="accounts"')],
                                [series("siwa_consumer_lag_seconds", "60x30", 'consumer="accounts"')], 20),
    "SiwaNotifydAccountDeleteWaits": ([series("siwa_oldest_unacknowledged_account_delete_seconds", "700000x5")],
                                      [series("siwa_oldest_unacknowledged_account_delete_seconds", "600000x5")], 5),
    "SiwaNotifydUnacknowledgedRowsRemoved": ([series("siwa_pruned_unacknowledged_total", "0x5 3x5")],
                                             [series("siwa_pruned_unacknowledged_total", "3x10")], 10),
    "SiwaNotifydDeferred": ([series("siwa_deferred_events", "4x200")], [series("siwa_deferred_events", "4x60 0x140")], 190),
    "SiwaNotifydQuarantined": ([series("siwa_quarantined_events", "1x10")], [series("siwa_quarantined_events", "0x10")], 9),
    "SiwaNotifydWrongAudience": (
        [series("siwa_notifications_total", "0x5 12x20", 'outcome="wrong_audience",client_id="com.x.y"')],
        [series("siwa_notifications_total", "0x5 12x20", 'outcome="accepted",client_id="com.x.y"')], 20),
    "SiwaNotifydRefusals": (
        [series("siwa_notifications_total", "0x5 1x30", 'outcome="store_failed",client_id="com.x"')],
        [series("siwa_notifications_total", "0x5 1x30", 'outcome="bad_signature",client_id=""')], 30),
    "SiwaNotifydForgeries": (
        [series("siwa_notifications_total", "0+90x60", 'outcome="bad_signature",client_id=""')],
        [series("siwa_notifications_total", "0+30x60", 'outcome="bad_signature",client_id=""'),
         series("siwa_notifications_total", "0+900x60", 'outcome="accepted",client_id="com.x"')], 50),
    "SiwaNotifydSilence": (
        [series("siwa_last_accepted_timestamp_seconds", f"60x{32 * 24}", 'client_id="com.x"')],
        [series("siwa_last_accepted_timestamp_seconds", f"0x{32 * 24}", 'client_id="com.never"'),
         series("siwa_last_accepted_timestamp_seconds", f"60+3600x{32 * 24}", 'client_id="com.lively"')], 31 * DAY),
}


def metrics_of(expression):
    return set(re.findall(r"\b(?:siwa|process)_\w+", expression))


def expressions():
    """(title, expression) of every query of the dashboard, its variables filled in."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$job", "siwa-notifyd").replace("$__rate_interval", "1m")


class TestAlerts(unittest.TestCase):
    def test_each_alert_fires_and_stays_quiet(self):
        harness.need("promtool")
        names = set(re.findall(r"- alert: (\w+)", ALERTS.read_text()))
        self.assertEqual(names, set(CASES))
        tests = {}
        for name, (fires, quiet, minutes) in CASES.items():
            interval = COARSE.get(name, "1m")
            expression = f'count(ALERTS{{alertname="{name}",alertstate="firing"}})'
            for input_series, samples in ((fires, [{"labels": "{}", "value": 1}]), (quiet, [])):
                tests.setdefault(interval, []).append({
                    "name": name, "interval": interval, "input_series": input_series,
                    "promql_expr_test": [{"expr": expression, "eval_time": f"{minutes}m", "exp_samples": samples}]})
        for interval, of_interval in tests.items():
            done = self.promtool(interval, of_interval)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        # that this can fail: what fires is expected to be quiet
        tests["1m"][0]["promql_expr_test"][0]["exp_samples"] = []
        self.assertNotEqual(self.promtool("1m", tests["1m"][:1]).returncode, 0)

    def promtool(self, interval, tests):
        with tempfile.TemporaryDirectory(prefix="siwa-alerts-") as folder:
            file = pathlib.Path(folder) / "tests.yml"
            file.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": interval, "tests": tests}))
            return subprocess.run([harness.command_path("promtool"), "test", "rules", file], capture_output=True, text=True,
                                  check=False)


class TestDashboard(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        harness.need("prometheus")
        cls.apple = Apple()
        monitor = f"127.0.0.1:{harness.free_port()}"
        cls.daemon = Daemon(cls.apple, settings={"monitor": monitor, "consumers": [{"name": "accounts"}]})
        cls.daemon.__enter__()
        cls.addClassCleanup(cls.daemon.__exit__, None, None, None)
        for kind in "account-delete", "email-enabled":
            assert cls.daemon.post(cls.apple.body(cls.apple.notification(kind)))[0] == 200
        cls.daemon.post("{}")
        folder = tempfile.TemporaryDirectory(prefix="siwa-prometheus-", ignore_cleanup_errors=True)
        cls.addClassCleanup(folder.cleanup)
        config = pathlib.Path(folder.name) / "prometheus.yml"
        config.write_text(json.dumps({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": [str(ALERTS)],
            "scrape_configs": [{"job_name": "siwa-notifyd", "static_configs": [{"targets": [monitor]}]}]}))
        cls.prometheus = harness.Process(folder.name, "prometheus")
        cls.address = f"127.0.0.1:{harness.free_port()}"
        cls.prometheus.spawn([harness.command_path("prometheus"), f"--config.file={config}",
                              f"--storage.tsdb.path={folder.name}/data", f"--web.listen-address={cls.address}"])
        cls.addClassCleanup(cls.prometheus.end, 9)
        wait_until(lambda: cls.ask("siwa_ready"), "Prometheus has scraped")

    @classmethod
    def ask(cls, expression):
        try:
            with urllib.request.urlopen(f"http://{cls.address}/api/v1/query?" + urllib.parse.urlencode(
                    {"query": expression}), timeout=20) as reply:
                answer = json.load(reply)
        except OSError:
            return []
        return answer["data"]["result"]

    def test_every_metric_exists(self):
        text = self.daemon.get("/metrics").body
        known = set(re.findall(r"(?m)^# TYPE (\S+)", text))
        wanted = metrics_of(ALERTS.read_text()) | {name for _, expression in expressions()
                                                   for name in metrics_of(expression)}
        base = {re.sub(r"_(bucket|sum|count)$", "", name) if re.sub(r"_(bucket|sum|count)$", "", name) in known else name
                for name in wanted}
        self.assertEqual(base - known, set())

    def test_every_query_has_an_answer(self):
        # what there is none of here: errors of the database; what is under way is asked of a running one
        may_be_empty = {"Errors of the database, removed rows"}
        for title, expression in expressions():
            with self.subTest(title=title, expression=expression):
                if title in may_be_empty:
                    self.ask(expression)
                else:
                    # a refused request each time, so that what counts them grows while it is looked at
                    wait_until(lambda: self.daemon.post("{}") and self.ask(expression), f"an answer to {expression}")


if __name__ == "__main__":
    unittest.main()

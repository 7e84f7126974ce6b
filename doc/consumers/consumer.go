// Reads siwa-notifyd's outbox with database/sql: go run consumer.go OUTBOX ACCOUNTS [once]
package main

import (
	"database/sql"
	"log"
	"os"
	"time"

	_ "github.com/mattn/go-sqlite3"
)

// Each takes the person and the time of the event; none touches who signed in after it.
var actions = map[string]string{
	"account-delete":  "DELETE FROM person WHERE sub = ? AND signed_in_ms < ?",
	"consent-revoked": "UPDATE person SET linked = 0 WHERE sub = ? AND signed_in_ms < ?",
	"email-disabled":  "UPDATE person SET mail = 0 WHERE sub = ? AND signed_in_ms < ?",
	"email-enabled":   "UPDATE person SET mail = 1 WHERE sub = ? AND signed_in_ms < ?",
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// consume does what a batch of events asks; returns how many there were.
func consume(outbox, accounts *sql.DB) (count int) {
	var last, prunedThrough, id, timeMs int64
	var kind string
	var sub sql.NullString
	work, err := accounts.Begin() // one transaction: the work and the cursor
	must(err)
	must(work.QueryRow("SELECT last FROM cursor").Scan(&last))
	events, err := outbox.Query(`SELECT id, type, sub, coalesce(event_time_ms, issued_at_ms)
		FROM outbox WHERE id > ? ORDER BY id LIMIT 500`, last)
	must(err)
	for id = last; events.Next(); count++ {
		must(events.Scan(&id, &kind, &sub, &timeMs))
		if action, known := actions[kind]; known {
			_, err = work.Exec(action, sub, timeMs)
			must(err)
		}
	}
	must(events.Err())
	must(outbox.QueryRow("SELECT pruned_through FROM outbox_state").Scan(&prunedThrough))
	if last < prunedThrough {
		log.Fatalf("events up to %d were pruned, and only those up to %d were read", prunedThrough, last)
	}
	_, err = work.Exec("UPDATE cursor SET last = ?", id)
	must(err)
	must(work.Commit())
	return count
}

func main() {
	outbox, err := sql.Open("sqlite3", "file:"+os.Args[1]+"?mode=ro")
	must(err)
	accounts, err := sql.Open("sqlite3", "file:"+os.Args[2]+"?mode=rw&_txlock=immediate")
	must(err)
	once := len(os.Args) > 3 && os.Args[3] == "once"
	for consume(outbox, accounts) > 0 || !once {
		if !once {
			time.Sleep(time.Second)
		}
	}
}

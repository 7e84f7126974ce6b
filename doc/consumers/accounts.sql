-- What the consumers in this folder keep: their people, and how far they have read.
CREATE TABLE person (
    sub TEXT PRIMARY KEY,
    signed_in_ms INTEGER NOT NULL,      -- the latest sign-in
    linked INTEGER NOT NULL DEFAULT 1,  -- 0: no session of Sign in with Apple is valid any more
    mail INTEGER NOT NULL DEFAULT 1     -- 0: Apple forwards no mail to this person
);
CREATE TABLE cursor (last INTEGER NOT NULL);
INSERT INTO cursor VALUES (0);

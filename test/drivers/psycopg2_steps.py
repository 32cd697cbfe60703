"""psycopg 2."""
import asyncio
import select

import psycopg2
from steps import database, notify_sql, quote, run, TIMEOUT


class Session:
    def connect(self):
        self.connection = psycopg2.connect(dbname=database, **self.address)
        self.connection.autocommit = True

    def close(self):
        self.connection.close()

    def pid(self):
        return self.connection.info.backend_pid

    def execute(self, sql, values=None):
        with self.connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchone() if cursor.description else None

    def run(self, sql):
        self.execute(sql)

    def listen(self, name):
        self.run("LISTEN " + quote(name))

    def value(self, sql):
        return self.execute(sql)[0]

    def notify(self, channel, payload):
        self.execute(notify_sql, (channel, payload))

    binary = notify

    def prepared(self, count, channel, payload):
        for i in range(count):
            self.notify(channel, payload + str(i + 1))

    def begin(self):
        # it sends BEGIN itself, before the first statement
        self.connection.autocommit = False

    def commit(self):
        self.connection.commit()
        self.connection.autocommit = True

    def rollback(self):
        self.connection.rollback()
        self.connection.autocommit = True

    def alive(self):
        self.run("SELECT 1")

    def cancel(self):
        self.connection.cancel()

    def reset(self):
        self.connection.reset()
        self.connection.autocommit = True

    def wait_until_heard(self, count):
        while True:
            self.connection.poll()
            self.heard += [(n.pid, n.channel, n.payload) for n in self.connection.notifies]
            self.connection.notifies.clear()
            if len(self.heard) >= count or not select.select([self.connection], [], [], TIMEOUT)[0]:
                break

    @staticmethod
    def extras(sessions):
        connection = sessions["other"].connection
        listener = sessions["listener"]
        connection.set_session(isolation_level="SERIALIZABLE", readonly=True, autocommit=False)
        with connection:
            sessions["other"].notify("drivers_end", "a")
        connection.set_session(isolation_level="DEFAULT", readonly="DEFAULT", autocommit=True)
        listener.wait_until_heard(1)
        return ["a serializable transaction: %s" % [n[2] for n in listener.heard]]


asyncio.run(run(Session, psycopg2.Error))

"""psycopg 3; with the argument "async", its asyncio half."""
import asyncio
import sys

import psycopg
from steps import database, notify_sql, quote, run, TIMEOUT


class Session:
    """Statements run in autocommit mode, but between begin and the end."""

    def connect(self):
        self.connection = psycopg.connect(dbname=database, autocommit=True, **self.address)
        self.connection.add_notify_handler(
            lambda n: self.heard.append((n.pid, n.channel, n.payload)))

    def close(self):
        return self.connection.close()

    def pid(self):
        return self.connection.info.backend_pid

    def run(self, sql):
        return self.connection.execute(sql)

    def listen(self, name):
        return self.run("LISTEN " + quote(name))

    def value(self, sql):
        return self.connection.execute(sql, binary=True).fetchone()[0]

    def notify(self, channel, payload):
        return self.connection.execute(notify_sql, (channel, payload))

    def binary(self, channel, payload):
        return self.connection.execute("SELECT pg_notify(%b, %b)", (channel, payload))

    def prepared(self, count, channel, payload):
        for i in range(count):
            self.connection.execute(notify_sql, (channel, payload + str(i + 1)))

    def begin(self):
        return self.run("BEGIN")

    def commit(self):
        return self.connection.commit()

    def rollback(self):
        return self.connection.rollback()

    def alive(self):
        self.run("SELECT 1")
        self.run("")

    def cancel(self):
        self.connection.cancel()

    def reset(self):
        return self.run("DISCARD ALL")

    def wait_until_heard(self, count):
        if len(self.heard) < count:
            generator = self.connection.notifies()
            for n in generator:
                self.heard.append((n.pid, n.channel, n.payload))
                if len(self.heard) >= count:
                    break
            generator.close()

    @staticmethod
    def extras(sessions):
        connection = sessions["other"].connection
        listener = sessions["listener"]
        lines = []
        with connection.pipeline():
            connection.execute("NOTIFY drivers_end, 'a'")
            connection.execute(notify_sql, ("drivers_end", "b"))
            connection.execute("SELECT 1")
        lines.append("a pipeline")
        with connection.transaction():
            connection.execute(notify_sql, ("drivers_end", "c"))
            try:
                with connection.transaction():
                    connection.execute(notify_sql, ("drivers_end", "no"))
                    raise ValueError
            except ValueError:
                pass
        listener.wait_until_heard(3)
        lines.append("nested transactions: %s" % [n[2] for n in listener.heard])
        listener.heard.clear()
        connection.autocommit = False
        connection.execute(notify_sql, ("drivers_end", "d"))
        connection.commit()
        connection.autocommit = True
        listener.wait_until_heard(1)
        lines.append("without autocommit: %s" % [n[2] for n in listener.heard])
        return lines


class AsyncSession(Session):
    async def connect(self):
        self.connection = await psycopg.AsyncConnection.connect(
            dbname=database, autocommit=True, **self.address)
        self.connection.add_notify_handler(
            lambda n: self.heard.append((n.pid, n.channel, n.payload)))

    async def value(self, sql):
        cursor = await self.connection.execute(sql, binary=True)
        return (await cursor.fetchone())[0]

    async def prepared(self, count, channel, payload):
        for i in range(count):
            await self.connection.execute(notify_sql, (channel, payload + str(i + 1)), prepare=True)

    async def alive(self):
        await self.run("SELECT 1")
        await self.run("")

    async def wait_until_heard(self, count):
        async def listen():
            generator = self.connection.notifies()
            async for n in generator:
                self.heard.append((n.pid, n.channel, n.payload))
                if len(self.heard) >= count:
                    break
            await generator.aclose()

        if len(self.heard) < count:
            await asyncio.wait_for(listen(), TIMEOUT)

    @staticmethod
    async def extras(sessions):
        connection = sessions["other"].connection
        listener = sessions["listener"]
        async with connection.pipeline():
            await connection.execute("NOTIFY drivers_end, 'a'")
            await connection.execute(notify_sql, ("drivers_end", "b"))
        async with connection.transaction():
            await connection.execute(notify_sql, ("drivers_end", "c"))
        await listener.wait_until_heard(3)
        return ["a pipeline, and a transaction: %s" % [n[2] for n in listener.heard]]


asyncio.run(run(AsyncSession if sys.argv[1:] == ["async"] else Session, psycopg.Error))

# Ruby's pg; see the file steps.
require 'pg'

TIMEOUT = 60
NOTIFY = 'SELECT pg_notify($1, $2)'

$stdin.set_encoding('UTF-8')
$stdout.set_encoding('UTF-8')
$stdout.sync = true

# A session: the connection, and notifications that have come.
class Session
  attr_reader :connection, :heard

  def initialize(port)
    @port = port
    @connection = PG.connect(dbname: ENV['PGDATABASE'], port: port)
    @connection.set_notice_processor { |_| }
    @heard = []
    @prepared = 0
  end

  def hear(count)
    while @heard.size < count &&
          @connection.wait_for_notify(TIMEOUT) { |channel, pid, payload| @heard << [pid, channel, payload] }
    end
    found = @heard.map do |pid, channel, payload|
      "#{pid == @connection.backend_pid ? 'own' : 'other'} #{channel} #{payload}"
    end
    @heard.clear
    found
  end

  def prepared(count, channel, payload)
    name = "statement #{@prepared += 1}"
    @connection.prepare(name, NOTIFY)
    @connection.describe_prepared(name)
    (1..count).each { |i| @connection.exec_prepared(name, [channel, payload + i.to_s]) }
  end

  def do(action, arguments)
    case action
    when 'close' then @connection.close
    when 'pid' then return [value('SELECT pg_backend_pid()') == @connection.backend_pid.to_s ? 'own' : 'another']
    when 'run' then @connection.exec(arguments[0])
    when 'listen' then @connection.exec("LISTEN #{@connection.quote_ident(arguments[0])}")
    when 'value' then return [value(arguments[0])]
    when 'notify' then @connection.exec_params(NOTIFY, arguments)
    when 'binary'
      @connection.exec_params(NOTIFY, arguments.map { |v| { value: v, type: 25, format: 1 } }, 1)
    when 'prepared' then prepared(arguments[0].to_i, arguments[1], arguments[2])
    when 'hear' then return hear(arguments[0].to_i)
    when 'begin' then @connection.exec('BEGIN')
    when 'commit' then @connection.exec('COMMIT')
    when 'rollback' then @connection.exec('ROLLBACK')
    when 'alive'
      @connection.exec('')
      @connection.exec_params('SELECT 1', [], 1)
      PG::Connection.ping(dbname: ENV['PGDATABASE'], port: @port) == PG::PQPING_OK or raise 'no ping'
    when 'cancel' then @connection.cancel
    when 'reset' then @connection.reset
    else raise "unknown: #{action}"
    end
    ['ok']
  end

  def value(sql)
    @connection.exec(sql).getvalue(0, 0)
  end
end

def extras(sessions)
  connection = sessions['other'].connection
  connection.transaction { |c| c.exec_params(NOTIFY, %w[drivers_end a]) }
  begin
    connection.transaction do |c|
      c.exec_params(NOTIFY, %w[drivers_end no])
      raise ArgumentError
    end
  rescue ArgumentError
    nil
  end
  connection.enter_pipeline_mode
  connection.send_query_params(NOTIFY, %w[drivers_end b])
  connection.send_query_params('SELECT 1', [])
  connection.pipeline_sync
  results = []
  until results.last == PG::PGRES_PIPELINE_SYNC
    result = connection.get_result
    results << result.result_status if result
  end
  connection.exit_pipeline_mode
  connection.send_query("NOTIFY drivers_end, 'c'; SELECT 1")
  connection.get_last_result
  ["blocks, a pipeline #{results}: #{sessions['listener'].hear(3)}"]
end

sessions = {}
$stdin.each_line(chomp: true) do |line|
  puts line
  action, name, *arguments = line.split("\t")
  result =
    begin
      case action
      when 'channel' then []
      when 'connect'
        sessions[name] = Session.new(ENV[name == 'other' ? 'OTHER_PORT' : 'PGPORT'])
        ['ok']
      when 'extras' then extras(sessions).map { |l| "ok #{l}" }
      else sessions[name].do(action, arguments)
      end
    rescue PG::Error => e
      ["error #{e.respond_to?(:result) && e.result ? e.result.error_field(PG::PG_DIAG_SQLSTATE) : e.message}"]
    end
  result.each { |l| puts "= #{l}" }
end

// The mpchat client for C#: one file, for Unity 2019 or newer and for .NET. C# 7.3, no packages.
//
//     using (Mpchat.Chat chat = new Mpchat.Chat("127.0.0.1", 4000, "alice", "lobby")) {
//         chat.OnMessage += message => Console.WriteLine(message.Sender + ": " + message.Text);
//         chat.Say("hello");
//         while (playing) { chat.Poll(); ... }      // in Unity: Poll() in Update, Dispose() in OnDestroy
//     }
//
// A chat has two threads of its own. One connects, reads, and connects again after a loss; the other one writes.
// No method waits for the network, except Dispose, and Renew() where the program's own JwtSource does. Events are
// raised by Poll() alone, on the thread that calls it.
//
// A member, a client with a name, gets each message of its room once and in order, also over lost connections.
// When messages will not come, OnLost names their numbers. What the client itself has said is sent at most once:
// a message that was written before a loss is not written again. OnDisconnected says how many such messages there
// are; those that the server has taken come back after the client has resumed.
//
// A server may ask for a proof of the name: a password, a token or a secret. Each connection of a chat shows it. When a
// token is over and the program gives a source of tokens, the chat comes back with a fresh one. There is no TLS.
//
// "mpchat manual wire" and "mpchat manual members-and-rooms" describe the protocol.

using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;
using System.Threading;

namespace Mpchat {
    /// <summary>The state of a chat. It begins Disconnected; Ended and Closed are final.</summary>
    public enum ChatState {
        /// <summary>There is no connection. The client tries again by itself.</summary>
        Disconnected,
        /// <summary>There is a connection. A member may still wait for its welcome.</summary>
        Connected,
        /// <summary>
        /// The server has rejected the name, the room or the proof, the operator has kicked the member, or a newer
        /// connection has taken the name. No other connection follows.
        /// </summary>
        Ended,
        /// <summary>The program has called Dispose.</summary>
        Closed
    }

    /// <summary>
    /// Proves that a name is the client's: at most one of the four is set, with at most 8192 characters. A Chat takes a
    /// copy. A proof can be set and not be read: no event, no exception and no ToString shows it.
    /// </summary>
    public sealed class Proof {
        /// <summary>The password of a registered name.</summary>
        public string Password { internal get; set; }
        /// <summary>A token (JWT). Without a name the chat gets the token's. Renew takes a fresh one.</summary>
        public string Jwt { internal get; set; }
        /// <summary>
        /// Returns a token as Jwt. The chat calls it before each attempt to connect, on a thread of its own, so it may
        /// wait for the network. When it throws, or returns no token, OnRejected says no_token, and the chat tries
        /// again later. Renew() calls it too, on its caller's thread, maybe at the same time.
        /// </summary>
        public Func<string> JwtSource { internal get; set; }
        /// <summary>The secret that all clients of the server share. The name is free.</summary>
        public string Secret { internal get; set; }
    }

    /// <summary>A connection was made. Again is false for the first one.</summary>
    public sealed class Connected {
        public string Address { get; internal set; }
        public bool Again { get; internal set; }
    }

    /// <summary>The connection was lost, or the first one could not be made.</summary>
    public sealed class Disconnected {
        public string Address { get; internal set; }
        public string Reason { get; internal set; }
        /// <summary>True when the client tries again by itself.</summary>
        public bool Retrying { get; internal set; }
        /// <summary>
        /// Messages that were written to this connection and have not come back: the server may have them or not,
        /// and they are not sent again. Null for a client without a name, which cannot know its own messages.
        /// </summary>
        public int? Unsure { get; internal set; }
        /// <summary>Messages that were not written. They are sent after the next connect, if there is one.</summary>
        public int Unsent { get; internal set; }
    }

    /// <summary>The server has taken the client into a room; the room's history follows.</summary>
    public sealed class Welcome {
        /// <summary>Name and room as the server spells them.</summary>
        public string Name { get; internal set; }
        public string Room { get; internal set; }
        /// <summary>The number of the room's last message.</summary>
        public long Seq { get; internal set; }
        public string Epoch { get; internal set; }
        /// <summary>Members of the room, this client included.</summary>
        public long Members { get; internal set; }
        /// <summary>True after a resume that lost nothing.</summary>
        public bool Recovered { get; internal set; }
        /// <summary>Proves that the name is this client's; a later Chat may take the name back with it.</summary>
        public string Token { get; internal set; }
        /// <summary>"operator" for a member that may use Kick, Ban, Mute and CloseRoom, else "member".</summary>
        public string Role { get; internal set; }
        /// <summary>When the proof ends, in seconds since 1970; null: never.</summary>
        public double? Expires { get; internal set; }
        /// <summary>
        /// True when it answers no request: several hosts have lost their log and entered the member again.
        /// </summary>
        public bool Again { get; internal set; }
        internal bool HasLost;
        internal long LostFirst;
        internal long? LostLast;
    }

    /// <summary>A message. A client without a name gets only the text.</summary>
    public sealed class Message {
        public string Text { get; internal set; }
        /// <summary>A member's name, or the host:port of a client without one; null: the operator.</summary>
        public string Sender { get; internal set; }
        /// <summary>The room; null for a private message, and for the farewell of one of several hosts.</summary>
        public string Room { get; internal set; }
        /// <summary>The number in the room; null for a private message.</summary>
        public long? Seq { get; internal set; }
        /// <summary>Seconds since 1970.</summary>
        public double? At { get; internal set; }
        /// <summary>The receiver of a private message, else null.</summary>
        public string To { get; internal set; }
    }

    /// <summary>Members entered or left the room: Count of them, at most eight by name.</summary>
    public sealed class Notice {
        public string Room { get; internal set; }
        public IList<string> Names { get; internal set; }
        public long Count { get; internal set; }
        /// <summary>Members of the room now.</summary>
        public long Members { get; internal set; }
        /// <summary>Why they left, in a word or two; null when they entered.</summary>
        public string Reason { get; internal set; }
    }

    /// <summary>Messages of Room that will not come: numbers First to Last, both included.</summary>
    public sealed class Lost {
        public string Room { get; internal set; }
        /// <summary>
        /// With several hosts it may be a number that has come, when Last is null: what came from there on is uncertain.
        /// </summary>
        public long First { get; internal set; }
        /// <summary>Null when the server numbers anew: how many are lost is then unknown, maybe none.</summary>
        public long? Last { get; internal set; }
    }

    /// <summary>A page of up to 100 names, of Members; Next asks for the next page, null: the last one.</summary>
    public sealed class WhoPage {
        public string Room { get; internal set; }
        public IList<string> Names { get; internal set; }
        public long Members { get; internal set; }
        public string Next { get; internal set; }
    }

    /// <summary>A room and the number of its members.</summary>
    public sealed class RoomSize {
        public string Room { get; internal set; }
        public long Members { get; internal set; }
    }

    /// <summary>A page of up to 100 rooms, of Count; Next asks for the next page, null: the last one.</summary>
    public sealed class RoomsPage {
        public IList<RoomSize> Rooms { get; internal set; }
        public long Count { get; internal set; }
        public string Next { get; internal set; }
    }

    /// <summary>The server has done what an operator asked for.</summary>
    public sealed class Moderated {
        /// <summary>kick, ban, unban, mute, unmute or close.</summary>
        public string Action { get; internal set; }
        /// <summary>The name, address, network or room.</summary>
        public string Target { get; internal set; }
        /// <summary>Connections that were ended (kick, ban), members put into the lobby (close), else 0.</summary>
        public long Count { get; internal set; }
    }

    /// <summary>
    /// The server has rejected something, or sent what is not mpchat (the code "garbled"). Or the connection was lost
    /// before the answer to an operator's request ("unconfirmed"): the server may have done it or not.
    /// </summary>
    public sealed class Error {
        /// <summary>For programs: one of the codes of "mpchat manual wire".</summary>
        public string Code { get; internal set; }
        /// <summary>For people.</summary>
        public string Text { get; internal set; }
        /// <summary>The number of messages or requests that the error stands for.</summary>
        public long Times { get; internal set; }
        /// <summary>With auth_required: what the server takes, out of password, jwt and secret. Else empty.</summary>
        public IList<string> Proofs { get; internal set; }
        /// <summary>
        /// Messages said after an Enter that was rejected, and before this event or the next Enter. They were for the
        /// other room, so they are not sent.
        /// </summary>
        public int Unsent { get; internal set; }
    }

    /// <summary>
    /// The server has rejected the name, the room or the proof that a connection begins with, or has ended the
    /// connection with kicked, taken_over or expired. Or JwtSource has given no token ("no_token"): this is told once
    /// between two connections, and again for another reason.
    /// </summary>
    public sealed class Rejected {
        public string Name { get; internal set; }
        public string Room { get; internal set; }
        /// <summary>Such as name_taken, bad_name, auth_required, bad_credentials, expired, kicked, no_token.</summary>
        public string Code { get; internal set; }
        public string Text { get; internal set; }
        /// <summary>As in Error.</summary>
        public IList<string> Proofs { get; internal set; }
        /// <summary>True when the client tries again by itself; else the chat has ended.</summary>
        public bool Retrying { get; internal set; }
    }

    /// <summary>
    /// A chat with one server, over as many connections as it takes. Poll is called from one thread at a time, all
    /// other methods from any thread.
    /// </summary>
    public sealed class Chat : IDisposable {
        // Milliseconds to resolve the address, to connect, and to wait for the welcome: over twice the cost of a
        // lost first SYN (1 s, then 2 s).
        const int OpenTimeout = 10000;
        // Seconds of silence before TCP probes the server, and seconds between two probes.
        const int SilenceSeconds = 30, ProbeSeconds = 15;
        // Microseconds after which the reading thread looks again whether its socket is still open.
        const int LookEvery = 500000;
        // Milliseconds after the call of Dispose. Until FlushBy queued messages are written. Until CloseBy the server
        // may close too: a reset could destroy the last message, and hold the name. At ReturnBy Dispose returns.
        const int FlushBy = 400, CloseBy = 700, ReturnBy = 1000;
        // Seconds before an attempt to reconnect: a random time up to First * 2^attempt, within Floor and Cap.
        const double BackoffFirst = 0.5, BackoffFloor = 0.1, BackoffCap = 20.0;
        // Seconds that a connection must last for the next loss to count as the first. A full server accepts, rejects
        // and closes: the client must not come back to it as fast as to one that was only restarted.
        const double Steady = 5.0;
        // Bytes of unwritten messages and requests. What does not fit is not taken: Say returns false.
        internal const int OutboxLimit = 1 << 20;
        // Bytes of events that were not polled. Past this limit the socket is not read, so TCP slows the server down.
        const int InboxLimit = 1 << 20;
        // Bytes that an entry of either queue costs beside its text.
        const int EntrySize = 96;
        const string DefaultRoom = "lobby";
        // Code points of a name's longest spelling: four times the 20 of a name and the 32 of a room.
        const int LongestName = 80, LongestRoom = 128;
        // Characters of a proof: the server reads no longer token.
        const int LongestProof = 8192;
        // Seconds of a ban or a mute, as the server allows them: ten years.
        const int LongestSanction = 10 * 365 * 86400;
        // Code of the error about a token that is over.
        const string Expired = "expired";
        // Code of the event that says that JwtSource has given no token.
        const string NoToken = "no_token";

        // A join that was rejected for one of these may be granted later.
        static readonly HashSet<string> Passing = new HashSet<string> {
            "name_taken", "room_full", "too_many_rooms", "too_many_rooms_by_address", "full", "too_fast",
            "try_later"
        };
        // Error codes that end a member's chat. A kick would do nothing to a client that comes back by itself. To take
        // a name back from a newer connection would never end.
        static readonly HashSet<string> Final = new HashSet<string> { "kicked", "banned", "taken_over", "tls_required" };
        // Error codes of an Enter, of a Renew, of Who and Rooms, and of an operator's request.
        static readonly HashSet<string> WrongJoin = new HashSet<string>(Passing) {
            "bad_name", "bad_room", "bad_request", "banned", "not_a_message", "auth_required", "not_allowed"
        };
        static readonly HashSet<string> WrongRenewal = new HashSet<string>(WrongJoin) {
            "bad_credentials", Expired
        };
        static readonly HashSet<string> WrongQuestion = new HashSet<string> {
            "bad_request", "bad_room", "not_joined", "not_a_message", "auth_required", "not_allowed"
        };
        static readonly HashSet<string> WrongModeration = new HashSet<string>(WrongQuestion) {
            "no_such_name", "bad_name", "failed", "try_later"
        };
        // Error codes of a Tell.
        static readonly HashSet<string> WrongTell = new HashSet<string> { "muted", "no_such_name", "too_long" };
        // Error codes that stand for messages, one each.
        static readonly HashSet<string> WrongMessage = new HashSet<string> {
            "muted", "no_such_name", "too_long", "not_a_message", "not_json", "not_utf8"
        };

        enum Kind { Say, Tell, Enter, Renew, Who, Rooms, Moderate }

        sealed class Outgoing {
            internal Kind Kind;
            internal byte[] Frame;
            // For the join that a connection begins with, and for a Renew: it continues what was read.
            internal bool Resumes;
            // The token that a join shows.
            internal string Jwt;
            // The text of a Tell.
            internal string Text;
            // An operator's request, and its name, address, network or room.
            internal string Action, Target;
            internal bool IsMessage { get { return Kind == Kind.Say || Kind == Kind.Tell; } }
            internal bool IsJoin { get { return Kind == Kind.Enter || Kind == Kind.Renew; } }
            internal int Weight { get { return Frame.Length + EntrySize; } }
        }

        struct Arrival {
            internal Action Raise;
            internal int Weight;
        }

        public event Action<Connected> OnConnected;
        public event Action<Disconnected> OnDisconnected;
        public event Action<Welcome> OnWelcome;
        public event Action<Message> OnMessage;
        public event Action<Message> OnPrivate;
        public event Action<Notice> OnJoined;
        public event Action<Notice> OnLeft;
        public event Action<Lost> OnLost;
        public event Action<WhoPage> OnWho;
        public event Action<RoomsPage> OnRooms;
        public event Action<Moderated> OnModerated;
        public event Action<Error> OnError;
        public event Action<Rejected> OnRejected;

        readonly string host;
        readonly int port;
        readonly string address;
        readonly bool named;
        // The key of the proof in a join: password, jwt or secret; null without a proof.
        readonly string proofKind;
        readonly Func<string> jwtSource;
        readonly Thread reader, writer;
        readonly ManualResetEvent stop = new ManualResetEvent(false);
        // Gives numbers in [0, 1).
        readonly Func<double> draw;

        // Guards all that follows; pulsed when any of it changes. Nothing waits for the network under this lock.
        readonly object changed = new object();
        readonly Queue<Arrival> inbox = new Queue<Arrival>();
        long inboxSize;
        readonly LinkedList<Outgoing> outbox = new LinkedList<Outgoing>();
        long outboxSize;
        // Requests and Tells on this connection without an answer, in the order of sending. That is the order of the
        // answers, but for operators' requests: the server may answer one later than what follows it.
        readonly List<Outgoing> requests = new List<Outgoing>();
        readonly Tracks tracks = new Tracks();
        ChatState state = ChatState.Disconnected;
        string name, room, token, role;
        double? expires;
        // The proof; with JwtSource it is not kept. A token is replaced when the server has taken a fresh one.
        string proof;
        // The fresh token of a Renew that was answered with expired, until anything else comes. The server may have
        // meant the old token, and then it ends the connection.
        string doubtful;
        // The last token was over. JwtSource was asked again since, and there was no welcome yet.
        bool askedAgain;
        Socket socket;
        // False until this connection has got its welcome. Messages from before are a plain client's: they come again.
        bool seated;
        bool wasSeated;
        // The writing thread is outside the lock with the first entry of the outbox.
        bool writing;
        // The last write to this connection failed.
        bool broken;
        // Set from the error room_closed until the welcome to the lobby that follows it.
        bool roomClosed;
        // The join that this connection began with.
        Outgoing entrance;
        // Set when the server has rejected the entrance: the reading thread then closes the connection.
        Rejected rejected;
        // Messages written to this connection, less those that came back or were rejected.
        long unsure;
        // Whether own messages that were heard before may come once more.
        bool repeats;
        // The error of the last Enter until Poll raises it. Until then the program speaks to the other room.
        Error unheard;

        /// <summary>
        /// Begins to connect and returns at once. Without a name the client gets and says texts only. The token of an
        /// earlier chat takes its name back while the server still holds it. Each connection shows the proof. It is not
        /// encrypted on its way: this client has no TLS.
        /// </summary>
        /// <exception cref="ArgumentException">
        /// The port is out of range, the name or the proof cannot be sent, there are two proofs, or a password or a
        /// secret without a name.
        /// </exception>
        public Chat(
            string host, int port, string name = null, string room = DefaultRoom, string token = null,
            Proof proof = null
        ) : this(host, port, name, room, token, proof, null) {
        }

        // For tests: the numbers of draw decide how long the chat waits before each attempt to reconnect.
        internal Chat(
            string host, int port, string name, string room, string token, Proof proof, Func<double> draw
        ) {
            if (host == null) throw new ArgumentNullException("host");
            if (port < 1 || port > 65535) throw new ArgumentOutOfRangeException("port", "a port is 1 to 65535");
            this.host = host;
            this.port = port;
            address = (host.IndexOf(':') < 0 ? host : "[" + host + "]") + ":" + port;
            if (proof != null) {
                jwtSource = proof.JwtSource;
                string[] kinds = { "password", "jwt", "jwt", "secret" };
                object[] given = { proof.Password, proof.Jwt, proof.JwtSource, proof.Secret };
                for (int index = 0; index < kinds.Length; index++) {
                    if (given[index] == null) continue;
                    if (proofKind != null) throw new ArgumentException("there are two proofs; give one", "proof");
                    proofKind = kinds[index];
                    this.proof = CheckedProof(given[index] as string);
                }
            }
            named = name != null || proofKind == "jwt";
            if (proofKind != null && !named) {
                throw new ArgumentException("with a " + proofKind + " a name is needed", "name");
            }
            this.name = name;
            this.room = named ? room ?? DefaultRoom : null;
            this.token = token;
            this.draw = draw ?? new Random(Guid.NewGuid().GetHashCode()).NextDouble;
            if (named) Hello(this.proof);  // throws what no connection can repair
            reader = new Thread(StayConnected) { IsBackground = true, Name = "mpchat-reader" };
            writer = new Thread(Write) { IsBackground = true, Name = "mpchat-writer" };
            reader.Start();
            writer.Start();
        }

        public ChatState State { get { lock (changed) return state; } }

        /// <summary>The client's name as the server spells it; null without a name.</summary>
        public string Name { get { lock (changed) return name; } }

        /// <summary>The client's room as the server spells it; null without a name.</summary>
        public string Room { get { lock (changed) return room; } }

        /// <summary>Proves that the name is this client's. Null until OnWelcome.</summary>
        public string Token { get { lock (changed) return token; } }

        /// <summary>"member" or "operator". Null until OnWelcome.</summary>
        public string Role { get { lock (changed) return role; } }

        /// <summary>When the proof ends, in seconds since 1970; null: never, or not known yet.</summary>
        public double? Expires { get { lock (changed) return expires; } }

        /// <summary>Messages and requests that were not written yet.</summary>
        public int Queued { get { lock (changed) return outbox.Count; } }

        /// <summary>
        /// Says text in the room. Returns false when it was not taken: the queue is full, or the chat has ended.
        /// While there is no connection the text waits for one.
        /// </summary>
        /// <exception cref="ArgumentException">Half of a surrogate pair, or more than a frame holds.</exception>
        public bool Say(string text) {
            return Enqueue(Kind.Say, new Json().Begin().Field("message", Given(text, "text")).End());
        }

        /// <summary>
        /// Says text to one member in any room. It comes back to this client too. When no member has the name, OnError
        /// says no_such_name. Otherwise as Say.
        /// </summary>
        public bool Tell(string to, string text) {
            NeedsName();
            Json json = new Json().Begin().Field("message", Given(text, "text")).Field("to", Given(to, "to"));
            return Enqueue(new Outgoing { Kind = Kind.Tell, Frame = json.End().Frame(), Text = text });
        }

        /// <summary>
        /// Changes the room. OnWelcome follows, or OnError. What is said after this call waits for the answer. When the
        /// server rejects the room, what was said before OnError is not sent. Returns as Say.
        /// </summary>
        /// <exception cref="ArgumentException">The room's name is far over its limit of 32 characters.</exception>
        public bool Enter(string room) {
            NeedsName();
            string wanted = Short(Given(room, "room"), LongestRoom);
            return Enqueue(Kind.Enter, new Json().Begin().Name("join").Begin().Field("room", wanted).End().End());
        }

        /// <summary>Asks for names in a room (null: this client's) that follow after. OnWho has the answer.</summary>
        public bool Who(string room = null, string after = null) {
            NeedsName();
            Json json = new Json().Begin().Name("who").Begin().Field("room", Short(room, LongestRoom));
            return Enqueue(Kind.Who, json.Field("after", Short(after, LongestName)).End().End());
        }

        /// <summary>Asks for the rooms that follow after. OnRooms has the answer.</summary>
        public bool Rooms(string after = null) {
            NeedsName();
            Json json = new Json().Begin().Name("rooms").Begin().Field("after", Short(after, LongestRoom)).End();
            return Enqueue(Kind.Rooms, json.End());
        }

        /// <summary>
        /// Shows a fresh token, which prolongs the connection's time; the room stays. Without jwt JwtSource is called,
        /// on this thread. OnWelcome follows, or OnError. When there is no connection, the next one begins with the
        /// fresh token. Returns as Say.
        /// </summary>
        /// <exception cref="InvalidOperationException">The proof is no token, or there is no fresh one.</exception>
        /// <exception cref="ArgumentException">The token has more than 8192 characters, or cannot be sent.</exception>
        public bool Renew(string jwt = null) {
            if (proofKind != "jwt") throw new InvalidOperationException("only a client with a token can do this");
            string fresh = CheckedProof(jwt ?? (jwtSource == null ? null : jwtSource()));
            if (string.IsNullOrEmpty(fresh)) throw new InvalidOperationException("there is no fresh token");
            // Later this frame is made once more, with the last message that has come.
            Json json = new Json().Begin().Name("join").Begin().Field("jwt", fresh).End().End();
            return Enqueue(new Outgoing { Kind = Kind.Renew, Frame = json.Frame(), Jwt = fresh });
        }

        /// <summary>
        /// Ends the connection of a member, or those of an address or a network. Only operators may. OnModerated has
        /// the answer, or OnError. What was written before a loss is not written again: OnError says unconfirmed.
        /// Returns as Say.
        /// </summary>
        /// <exception cref="ArgumentException">The name is far over its limit of 20 characters.</exception>
        public bool Kick(string name) {
            return Moderate("kick", "name", Short(Given(name, "name"), LongestName), null);
        }

        /// <summary>Keeps a name, an address or a network out, for 1 s to ten years; null: for good. As Kick.</summary>
        /// <exception cref="ArgumentOutOfRangeException">The seconds are out of range.</exception>
        public bool Ban(string name, int? seconds = null) {
            return Moderate("ban", "name", Short(Given(name, "name"), LongestName), seconds);
        }

        /// <summary>Lets a banned name, address or network in again. As Kick.</summary>
        public bool Unban(string name) {
            return Moderate("unban", "name", Short(Given(name, "name"), LongestName), null);
        }

        /// <summary>
        /// Delivers no message of a name; seconds as with Ban. An address or a network cannot be muted: OnError says
        /// bad_name. As Kick.
        /// </summary>
        /// <exception cref="ArgumentOutOfRangeException">The seconds are out of range.</exception>
        public bool Mute(string name, int? seconds = null) {
            return Moderate("mute", "name", Short(Given(name, "name"), LongestName), seconds);
        }

        /// <summary>Delivers the messages of a muted name again. As Kick.</summary>
        public bool Unmute(string name) {
            return Moderate("unmute", "name", Short(Given(name, "name"), LongestName), null);
        }

        /// <summary>Ends a room: its members come into the lobby. As Kick.</summary>
        /// <exception cref="ArgumentException">The room's name is far over its limit of 32 characters.</exception>
        public bool CloseRoom(string room) {
            return Moderate("close", "room", Short(Given(room, "room"), LongestRoom), null);
        }

        /// <summary>
        /// Raises the events that have come, in order, on this thread; returns how many. A handler's exception leaves
        /// this method, and the next call continues with the next event.
        /// </summary>
        public int Poll() {
            int count, raised = 0;
            lock (changed) count = inbox.Count;
            for (; raised < count; raised++) {
                Arrival next;
                lock (changed) {
                    if (state == ChatState.Closed || inbox.Count == 0) break;
                    next = inbox.Dequeue();
                    if (inboxSize >= InboxLimit) Monitor.PulseAll(changed);
                    inboxSize -= next.Weight;
                }
                next.Raise();
            }
            return raised;
        }

        /// <summary>
        /// Ends the chat and both threads, within a second. Queued messages are written first, if the server reads;
        /// those that wait for a connection, a welcome, or the answer to an Enter are not. No event follows.
        /// </summary>
        public void Dispose() {
            lock (changed) {
                if (state == ChatState.Closed) return;
                state = ChatState.Closed;
                stop.Set();
                Monitor.PulseAll(changed);
            }
            Stopwatch watch = Stopwatch.StartNew();
            Join(writer, FlushBy, watch);
            Join(reader, CloseBy, watch);
            lock (changed) Cut(socket);
            Join(writer, ReturnBy, watch);
            Join(reader, ReturnBy, watch);
        }

        static void Join(Thread thread, int by, Stopwatch watch) {
            thread.Join((int)Math.Max(0, by - watch.ElapsedMilliseconds));
        }

        internal bool ThreadsEnded { get { return !reader.IsAlive && !writer.IsAlive; } }

        static string Given(string text, string what) {
            if (text == null) throw new ArgumentNullException(what);
            return text;
        }

        // Throws for a text that is too long for a name, however it is composed. The server's answer to a request over
        // its payload_limit is too_long, which names no request.
        static string Short(string text, int longest) {
            int count = 0;
            foreach (char each in text ?? "") count += char.IsLowSurrogate(each) ? 0 : 1;
            if (count <= longest) return text;
            throw new ArgumentException("a name has at most " + longest / 4 + " characters, this one " + count);
        }

        // Throws for a proof that no server takes. The exception does not hold the proof.
        static string CheckedProof(string text) {
            if (text == null || text.Length <= LongestProof) return text;
            throw new ArgumentException(
                "a proof has at most " + LongestProof + " characters, this one " + text.Length
            );
        }

        void NeedsName() {
            if (!named) throw new InvalidOperationException("only a client with a name can do this");
        }

        bool Moderate(string action, string key, string target, int? seconds) {
            NeedsName();
            if (seconds < 1 || seconds > LongestSanction) {
                throw new ArgumentOutOfRangeException("seconds", "a time is 1 to " + LongestSanction + " seconds");
            }
            Json json = new Json().Begin().Name(action).Begin().Field(key, target);
            if (seconds != null) json.Field("for", seconds.Value);
            Outgoing entry = new Outgoing { Kind = Kind.Moderate, Action = action, Target = target };
            entry.Frame = json.End().End().Frame();
            return Enqueue(entry);
        }

        bool Enqueue(Kind kind, Json json) {
            return Enqueue(new Outgoing { Kind = kind, Frame = json.Frame() });
        }

        bool Enqueue(Outgoing entry) {
            lock (changed) {
                if (state == ChatState.Ended || state == ChatState.Closed) return false;
                if (outboxSize + entry.Weight > OutboxLimit) return false;
                if (entry.Kind == Kind.Enter) unheard = null;
                if (entry.Kind == Kind.Say && unheard != null) {
                    unheard.Unsent++;
                    return true;
                }
                outbox.AddLast(entry);
                outboxSize += entry.Weight;
                Monitor.PulseAll(changed);
                return true;
            }
        }

        void Announce(int size, Action raise) {
            inbox.Enqueue(new Arrival { Raise = raise, Weight = EntrySize + 2 * size });
            inboxSize += EntrySize + 2 * size;
        }

        // The writing thread. It takes an entry from the outbox only after the kernel has all of its frame.

        void Write() {
            while (true) {
                LinkedListNode<Outgoing> next;
                Socket target;
                byte[] frame;
                lock (changed) {
                    while (!CanWrite()) {
                        if (state == ChatState.Closed || state == ChatState.Ended) {
                            Shut(socket, SocketShutdown.Send);  // the reading thread then reads to the end
                            return;
                        }
                        Monitor.Wait(changed);
                    }
                    next = outbox.First;
                    target = socket;
                    frame = next.Value.Kind == Kind.Renew ? RenewFrame(next.Value) : next.Value.Frame;
                    writing = true;
                    // Before the write: the answer may come before this thread is back.
                    if (next.Value.Kind != Kind.Say) requests.Add(next.Value);
                }
                bool whole = Sent(target, frame);
                lock (changed) {
                    writing = false;
                    if (whole) {
                        Remove(next);
                        if (next.Value.IsMessage) unsure++;
                    } else {
                        // No server makes a message of a part of a frame, so the frame may be sent again.
                        requests.Remove(next.Value);
                        broken = true;
                        Cut(target);
                    }
                    Monitor.PulseAll(changed);
                }
            }
        }

        bool CanWrite() {
            // Nothing is written to a connection that the server has given up: it waits for the next one.
            if (outbox.Count == 0 || socket == null || !seated || broken || rejected != null) return false;
            // Nothing follows an Enter before its answer: it is not yet known which room hears it.
            return AskedJoin() == null;
        }

        Outgoing AskedJoin() {
            return requests.Find(each => each.IsJoin);
        }

        Outgoing Asked(Kind kind) {
            return requests.Find(each => each.Kind == kind);
        }

        void Remove(LinkedListNode<Outgoing> node) {
            outbox.Remove(node);
            outboxSize -= node.Value.Weight;
        }

        // Names the last message that has come, so that the server sends all that follow it, and no others.
        byte[] RenewFrame(Outgoing renewal) {
            Track track = tracks.Get(room);
            renewal.Resumes = track != null;
            Json json = new Json().Begin().Name("join").Begin().Field("jwt", renewal.Jwt);
            if (track != null) json.Field("after", track.After).Field("epoch", track.Epoch);
            return json.End().End().Frame();
        }

        static bool Sent(Socket target, byte[] frame) {
            try {
                for (int sent = 0; sent < frame.Length;) {
                    sent += target.Send(frame, sent, frame.Length - sent, SocketFlags.None);
                }
                return true;
            } catch (Exception error) when (error is SocketException || error is ObjectDisposedException) {
                return false;
            }
        }

        static void Shut(Socket socket, SocketShutdown how) {
            if (socket == null) return;
            try {
                socket.Shutdown(how);
            } catch (Exception error) when (error is SocketException || error is ObjectDisposedException) {
                // The connection is gone already.
            }
        }

        // Wakes both threads that may wait for a connection: a shutdown does so on Unix, a close on Windows.
        static void Cut(Socket socket) {
            Shut(socket, SocketShutdown.Both);
            if (socket != null) socket.Close();
        }

        // The reading thread. It opens every socket of the chat.

        void StayConnected() {
            int attempt = 0;
            bool connectedBefore = false, toldFailure = false, cameAtOnce = false;
            string toldNoToken = null;
            while (true) {
                string failure;
                Outgoing hello;
                bool prepared = Prepare(out hello, out failure);
                if (!prepared && failure != toldNoToken) {
                    // Told once between two connections, and again for another reason.
                    toldNoToken = failure;
                    AnnounceNoToken(failure);
                }
                Socket link = prepared ? Open(out failure) : null;
                if (link != null) {
                    long opened = Stopwatch.GetTimestamp();
                    if (Begin(link, hello, connectedBefore)) {
                        connectedBefore = toldFailure = true;
                        toldNoToken = null;
                        failure = Read(link);
                    }
                    End(link, failure);
                    if (SecondsSince(opened) >= Steady) attempt = 0;
                } else if (!toldFailure) {
                    // A first connection that cannot be made is told once. Later the loss was told.
                    toldFailure = true;
                    lock (changed) AnnounceDisconnected(failure, true);
                }
                lock (changed) {
                    if (state == ChatState.Closed || state == ChatState.Ended) return;
                    // For a fresh token there is nothing to wait for. But tokens that are soon over must not make a
                    // busy loop.
                    cameAtOnce = link != null && !cameAtOnce && rejected != null && rejected.Code == Expired;
                }
                if (!cameAtOnce && stop.WaitOne((int)(Delay(attempt++, draw()) * 1000))) return;
            }
        }

        // Makes the join that the next connection begins with, none without a name. Returns false when there is no
        // token for it, or no frame that could hold it.
        bool Prepare(out Outgoing hello, out string failure) {
            hello = null;
            failure = null;
            if (!named) return true;
            string fresh = null;
            if (jwtSource != null) {
                try {
                    fresh = jwtSource();
                } catch (Exception error) {
                    // A failure of the program's own must not end its process. The exception's text may hold a proof.
                    failure = "no token: JwtSource has thrown " + error.GetType().Name;
                    return false;
                }
                if (string.IsNullOrEmpty(fresh)) {
                    failure = "no token: JwtSource has returned none";
                    return false;
                }
            }
            try {
                CheckedProof(fresh);
                lock (changed) {
                    DropRenewals();
                    hello = Hello(fresh ?? proof);
                }
                return true;
            } catch (ArgumentException error) {
                failure = "no join: " + error.Message;
                return false;
            }
        }

        // The join of the next connection shows the newest token: a Renew that was not answered is not needed.
        void DropRenewals() {
            LinkedListNode<Outgoing> node = outbox.First;
            while (node != null) {
                LinkedListNode<Outgoing> following = node.Next;
                if (node.Value.Kind == Kind.Renew) {
                    if (jwtSource == null) proof = node.Value.Jwt;
                    Remove(node);
                }
                node = following;
            }
        }

        // Seconds before an attempt, from 0 on; drawn is in [0, 1). Full jitter: a thousand clients lose a restarted
        // server at the same moment.
        internal static double Delay(int attempt, double drawn) {
            double ceiling = Math.Min(BackoffCap, BackoffFirst * Math.Pow(2, Math.Min(attempt, 16)));
            return Math.Max(BackoffFloor, ceiling * drawn);
        }

        static double SecondsSince(long start) {
            return (Stopwatch.GetTimestamp() - start) / (double)Stopwatch.Frequency;
        }

        Socket Open(out string failure) {
            failure = "no address is known for " + host;
            try {
                foreach (IPAddress each in Addresses()) {
                    try {
                        return Connect(each);
                    } catch (SocketException error) {
                        failure = error.Message;
                    }
                    if (stop.WaitOne(0)) return null;
                }
            } catch (Exception error) when (error is SocketException || error is ArgumentException) {
                failure = error.Message;
            }
            return null;
        }

        IPAddress[] Addresses() {
            IPAddress literal;
            if (IPAddress.TryParse(host, out literal)) return new[] { literal };
            IAsyncResult asked = Dns.BeginGetHostAddresses(host, null, null);
            WaitFor(asked);
            return Dns.EndGetHostAddresses(asked);
        }

        Socket Connect(IPAddress target) {
            Socket link = new Socket(target.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
            try {
                IAsyncResult connecting = link.BeginConnect(target, port, null, null);
                WaitFor(connecting);
                link.EndConnect(connecting);
                // TCP allows a socket to connect to itself, when no server listens on a loopback port.
                if (link.LocalEndPoint.Equals(link.RemoteEndPoint)) {
                    throw new SocketException((int)SocketError.ConnectionRefused);
                }
                link.NoDelay = true;
                ProbeWhenSilent(link);
                return link;
            } catch {
                link.Close();
                throw;
            }
        }

        // Lets TCP notice a server that has gone without a word; the system's own default is two hours.
        static void ProbeWhenSilent(Socket link) {
            link.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.KeepAlive, true);
            // On or off, the silence before the first probe, and between two: milliseconds.
            int[] values = { 1, SilenceSeconds * 1000, ProbeSeconds * 1000 };
            byte[] packed = new byte[values.Length * sizeof(int)];
            Buffer.BlockCopy(values, 0, packed, 0, packed.Length);
            try {
                try {
                    link.IOControl(IOControlCode.KeepAliveValues, packed, null);
                } catch (PlatformNotSupportedException) {
                    // .NET on other systems than Windows has options instead; older versions have no names for them.
                    link.SetSocketOption(SocketOptionLevel.Tcp, (SocketOptionName)3, SilenceSeconds);
                    link.SetSocketOption(SocketOptionLevel.Tcp, (SocketOptionName)17, ProbeSeconds);
                }
            } catch (SocketException) {
                // A system without either keeps its default.
            }
        }

        void WaitFor(IAsyncResult begun) {
            int done = WaitHandle.WaitAny(new[] { begun.AsyncWaitHandle, stop }, OpenTimeout);
            if (done != 0) throw new SocketException((int)SocketError.TimedOut);
        }

        // Begins to use a connection; returns false when the chat was closed meanwhile, or the hello failed.
        bool Begin(Socket link, Outgoing hello, bool again) {
            lock (changed) {
                if (state == ChatState.Closed) return false;
                socket = link;
                state = ChatState.Connected;
                seated = !named;
                broken = roomClosed = false;
                rejected = null;
                unsure = 0;
                Connected told = new Connected { Address = address, Again = again };
                Announce(0, () => Raise(OnConnected, told));
                entrance = hello;
                if (hello != null) requests.Add(hello);
                Monitor.PulseAll(changed);
            }
            if (hello != null && !Sent(link, hello.Frame)) Cut(link);  // Read then sees the end
            return true;
        }

        Outgoing Hello(string shown) {
            Track track = tracks.Get(room);
            Json json = new Json().Begin().Name("join").Begin().Field("name", name).Field("room", room);
            json.Field("token", token);
            if (proofKind != null) json.Field(proofKind, shown);
            if (track != null) json.Field("after", track.After).Field("epoch", track.Epoch);
            return new Outgoing { Kind = Kind.Enter, Frame = json.End().End().Frame(), Resumes = track != null };
        }

        // Reads until the connection ends; returns why it ended.
        string Read(Socket link) {
            Frames frames = new Frames();
            byte[] data = new byte[65536];
            Stopwatch begun = Stopwatch.StartNew();
            long until;
            try {
                while (true) {
                    lock (changed) {
                        while (inboxSize >= InboxLimit && state != ChatState.Closed) Monitor.Wait(changed);
                        if (rejected != null) return rejected.Text + " (" + rejected.Code + ")";
                        until = seated ? long.MaxValue : begun.ElapsedMilliseconds + OpenTimeout;
                    }
                    // Not one long wait: a socket that is closed at the wrong moment does not end it.
                    while (!link.Poll(LookEvery, SelectMode.SelectRead)) {
                        if (begun.ElapsedMilliseconds > until) throw new SocketException((int)SocketError.TimedOut);
                    }
                    int count = link.Receive(data, 0, data.Length, SocketFlags.None);
                    if (count == 0) {
                        return "the server closed it" + (frames.InFrame ? " inside a frame" : "");
                    }
                    foreach (ArraySegment<byte> payload in frames.Feed(data, count)) Take(payload);
                }
            } catch (SocketException error) {
                lock (changed) return seated ? error.Message : "no welcome: " + error.Message;
            } catch (ObjectDisposedException) {
                return "the connection broke during a write";
            }
        }

        void End(Socket link, string reason) {
            Cut(link);
            lock (changed) {
                // What the writing thread has in hand is either written or not, before it is counted.
                while (writing) Monitor.Wait(changed);
                if (socket != link) return;
                socket = null;
                seated = false;
                if (doubtful != null && jwtSource == null) proof = doubtful;
                doubtful = null;
                // A question may be asked twice. A message must not be said twice, nor a member be kicked twice.
                requests.Remove(entrance);
                List<Outgoing> unconfirmed = requests.FindAll(each => each.Kind == Kind.Moderate);
                requests.RemoveAll(each => each.Kind == Kind.Moderate || each.Kind == Kind.Tell);
                for (int index = requests.Count - 1; index >= 0; index--) {
                    outbox.AddFirst(requests[index]);
                    outboxSize += requests[index].Weight;
                }
                requests.Clear();
                if (state == ChatState.Closed) return;
                foreach (Outgoing each in unconfirmed) AnnounceUnconfirmed(each);
                bool again = rejected == null || rejected.Retrying;
                state = again ? ChatState.Disconnected : ChatState.Ended;
                AnnounceDisconnected(reason, again);
                Monitor.PulseAll(changed);
            }
        }

        void AnnounceUnconfirmed(Outgoing request) {
            Error told = new Error {
                Code = "unconfirmed", Times = 1, Proofs = new string[0],
                Text = request.Action + " " + request.Target + ": the connection was lost before the answer came"
            };
            Announce(told.Text.Length, () => Raise(OnError, told));
        }

        void AnnounceDisconnected(string reason, bool retrying) {
            int unsent = 0;
            foreach (Outgoing each in outbox) unsent += each.IsMessage ? 1 : 0;
            Disconnected told = new Disconnected {
                Address = address, Reason = reason, Retrying = retrying, Unsent = unsent,
                Unsure = named ? (int)Math.Max(0, unsure) : (int?)null
            };
            Announce(reason.Length, () => Raise(OnDisconnected, told));
        }

        static void Raise<T>(Action<T> handlers, T told) {
            if (handlers != null) handlers(told);
        }

        // What the server sends, one payload at a time.

        void Take(ArraySegment<byte> payload) {
            Arrived arrived;
            try {
                arrived = new Arrived(payload, named);
            } catch (FormatException problem) {
                arrived = new Arrived("garbled", "not an mpchat server: " + problem.Message);
            }
            lock (changed) {
                if (state == ChatState.Closed || rejected != null) return;
                doubtful = null;
                if (arrived.Message != null) TakeMessage(arrived.Message);
                else if (arrived.Error != null) TakeError(arrived.Error);
                else if (arrived.Welcome != null) TakeWelcome(arrived.Welcome);
                else if (arrived.Joined != null) TakeNotice(arrived.Joined, () => Raise(OnJoined, arrived.Joined));
                else if (arrived.Left != null) TakeNotice(arrived.Left, () => Raise(OnLeft, arrived.Left));
                else if (arrived.Who != null) {
                    requests.Remove(Asked(Kind.Who));
                    Announce(arrived.Size, () => Raise(OnWho, arrived.Who));
                } else if (arrived.Rooms != null) {
                    requests.Remove(Asked(Kind.Rooms));
                    Announce(arrived.Size, () => Raise(OnRooms, arrived.Rooms));
                } else if (arrived.Moderated != null) {
                    SettleModeration(arrived.Moderated);
                    Announce(arrived.Size, () => Raise(OnModerated, arrived.Moderated));
                }
                // Everything else is of a later version, which this one cannot show.
                Monitor.PulseAll(changed);
            }
        }

        void TakeMessage(Message message) {
            int size = message.Text.Length;
            if (message.To != null) {
                if (message.Sender == name) {
                    unsure--;
                    SettleTell(message.Text);
                }
                Announce(size, () => Raise(OnPrivate, message));
                return;
            }
            if (message.Seq == null) {
                if (seated) Announce(size, () => Raise(OnMessage, message));
                return;
            }
            Track track = tracks.Get(message.Room);
            if (track != null) {
                long gapFirst, gapLast;
                bool isNew = track.Take(message.Seq.Value, out gapFirst, out gapLast);
                if (gapFirst <= gapLast) AnnounceLost(message.Room, gapFirst, gapLast);
                if (!isNew) return;
                // Up to the room's number at the welcome it is history, of an earlier connection.
                // After a loss of the hosts' log those that were heard before come once more. Otherwise one may come
                // back before it was counted.
                if (message.Sender == name && message.Seq.Value > track.JoinedAt && (unsure > 0 || !repeats)) unsure--;
            }
            Announce(size, () => Raise(OnMessage, message));
        }

        // Notes that a Tell has come back. The receiver is not compared: the server may spell it in another way. The
        // server answers Tells in order, so those before it are answered too.
        void SettleTell(string text) {
            int place = requests.FindIndex(each => each.Kind == Kind.Tell && each.Text == text);
            for (int index = place; index >= 0; index--) {
                if (requests[index].Kind == Kind.Tell) requests.RemoveAt(index);
            }
        }

        void SettleModeration(Moderated answer) {
            // The server spells the target of a ban and the room of a close in its own way.
            bool respells = answer.Action == "ban" || answer.Action == "close";
            Outgoing request = requests.Find(each => each.Action == answer.Action && each.Target == answer.Target);
            if (request == null && respells) request = requests.Find(each => each.Action == answer.Action);
            if (request == null) {
                // The error of a Tell behind this request came first, and was taken for this one's.
                request = Asked(Kind.Tell);
                if (request != null) unsure--;
            }
            requests.Remove(request);
        }

        void TakeNotice(Notice notice, Action raise) {
            bool own = notice.Count == 1 && notice.Names.Count == 1 && notice.Names[0] == name;
            if (!own) Announce(24 * notice.Names.Count, raise);
        }

        void TakeWelcome(Welcome welcome) {
            // After room_closed it answers no join: the answer to one that was sent is still to come.
            Outgoing request = roomClosed ? null : AskedJoin();
            roomClosed = false;
            // Nor does the welcome of a host that enters a member again, unless another host has done so before this
            // connection's own join was answered.
            bool unasked = welcome.Again && (request == null || request != entrance);
            if (unasked) {
                // A Renew that is on its way names a number of before the loss.
                if (request != null) request.Resumes = false;
                request = null;
            }
            requests.Remove(request);
            bool resumes = request != null && request.Resumes;
            // The first member that enters an empty room decides its spelling.
            bool goesOn = unasked && IsSameName(room, welcome.Room);
            if (goesOn || (resumes && (welcome.Recovered || welcome.HasLost))) tracks.Respelled(room, welcome.Room);
            Track track = tracks.Entered(welcome.Room);
            bool gap = false;
            long first = 0, joinedAt = track.JoinedAt;
            long? last = null;
            if ((resumes || goesOn) && track.Epoch != "") gap = track.Resume(welcome, out first, out last);
            else track.Join(welcome);
            if (request != null && request.Kind == Kind.Renew) {
                // The connection is the same, so what the client has said on it is no history.
                track.JoinedAt = joinedAt;
                if (jwtSource == null) proof = request.Jwt;
            }
            // The client's own messages may be among those that follow, under other numbers after a loss.
            if (goesOn) track.JoinedAt = welcome.HasLost ? -1 : joinedAt;
            repeats = goesOn && welcome.HasLost;
            name = welcome.Name;
            room = welcome.Room;
            token = welcome.Token;
            role = welcome.Role;
            expires = welcome.Expires;
            seated = wasSeated = true;
            askedAgain = false;
            Announce(0, () => Raise(OnWelcome, welcome));
            if (gap) AnnounceLost(welcome.Room, first, last);
        }

        static bool IsSameName(string one, string other) {
            if (one == null || other == null) return false;
            string key = one.Normalize(NormalizationForm.FormKC).ToLowerInvariant();
            return key == other.Normalize(NormalizationForm.FormKC).ToLowerInvariant();
        }

        void AnnounceLost(string where, long first, long? last) {
            Lost told = new Lost { Room = where, First = first, Last = last };
            Announce(0, () => Raise(OnLost, told));
        }

        void TakeError(Error error) {
            if (error.Code == "garbled") {
                Announce(error.Text.Length, () => Raise(OnError, error));
                return;
            }
            long left = error.Times;
            for (; left > 0; left--) {
                Outgoing request = requests.Find(each => MayMean(error.Code, each));
                if (request == entrance && request != null) {
                    // Before the first welcome the program decides: it may have asked for a wrong name.
                    AnnounceRejected(error, wasSeated && (Passing.Contains(error.Code) || MayBeFresh(error.Code)));
                    return;
                }
                if (request == null) break;
                requests.Remove(request);
                if (request.Kind == Kind.Tell) unsure--;
                if (request.Kind == Kind.Enter) DropMessagesFor(request, error);
                if (error.Code == Expired) doubtful = request.Jwt;
            }
            if (Final.Contains(error.Code) && named) {
                AnnounceRejected(error, false);
                return;
            }
            if (error.Code == Expired && left > 0 && named) {
                AnnounceRejected(error, MayBeFresh(error.Code));
                return;
            }
            if (error.Code == "room_closed") roomClosed = true;
            if (WrongMessage.Contains(error.Code)) unsure -= left;
            Announce(error.Text.Length, () => {
                lock (changed) if (unheard == error) unheard = null;
                Raise(OnError, error);
            });
        }

        bool MayMean(string code, Outgoing request) {
            // Before the welcome nothing else is sent.
            if (request == entrance) return true;
            switch (request.Kind) {
                case Kind.Enter: return WrongJoin.Contains(code);
                case Kind.Renew: return WrongRenewal.Contains(code);
                case Kind.Tell: return WrongTell.Contains(code);
                case Kind.Moderate: return WrongModeration.Contains(code);
                default: return WrongQuestion.Contains(code);
            }
        }

        // Whether JwtSource may have a fresh token for one that is over. It is asked once between two welcomes: tokens
        // that are always over must not make a loop.
        bool MayBeFresh(string code) {
            if (code != Expired || jwtSource == null || askedAgain) return false;
            askedAgain = true;
            return true;
        }

        void AnnounceRejected(Error error, bool retrying) {
            Rejected told = new Rejected {
                Name = name, Room = room, Code = error.Code, Text = error.Text, Proofs = error.Proofs,
                Retrying = retrying
            };
            rejected = told;
            Announce(error.Text.Length, () => Raise(OnRejected, told));
        }

        // Unlike a rejection by the server this one ends no connection: there is none.
        void AnnounceNoToken(string why) {
            lock (changed) {
                Rejected told = new Rejected {
                    Name = name, Room = room, Code = NoToken, Text = why, Proofs = new string[0], Retrying = true
                };
                Announce(why.Length, () => Raise(OnRejected, told));
            }
        }

        // Removes what was said after an Enter that was rejected, and counts it in the error.
        void DropMessagesFor(Outgoing enter, Error error) {
            LinkedListNode<Outgoing> node = outbox.First;
            // The answer may come before the writing thread has removed the Enter.
            if (node != null && node.Value == enter) node = node.Next;
            while (node != null && node.Value.Kind != Kind.Enter) {
                LinkedListNode<Outgoing> following = node.Next;
                if (node.Value.Kind == Kind.Say) {
                    Remove(node);
                    error.Unsent++;
                }
                node = following;
            }
            // After a later Enter the program speaks to the room of that one.
            if (node == null) unheard = error;
        }
    }

    // How far one room has been read. Every number is taken once, in ascending order, or is part of a gap that is told.
    sealed class Track {
        // Names the server's numbering that After belongs to.
        internal string Epoch = "";
        // The room's last number at the last welcome.
        internal long JoinedAt;
        // The last number that was taken or told as lost.
        long last = -1;
        // Set between a first join and its first message: history may begin anywhere up to the next number.
        long? start;

        // The number to resume after.
        internal long After { get { return start == null ? last : Math.Max(start.Value, last); } }

        // Notes a join that did not ask to resume.
        internal void Join(Welcome welcome) {
            if (IsAnew(welcome.Epoch, welcome.Seq)) last = -1;
            Epoch = welcome.Epoch;
            start = JoinedAt = welcome.Seq;
        }

        // Notes a join that asked to resume; returns whether it left a gap.
        internal bool Resume(Welcome welcome, out long first, out long? gapLast) {
            long after = After;
            bool numbersAnew = welcome.HasLost && welcome.LostLast == null;
            // After a crash another epoch may still agree with the old one up to the number that was asked for.
            bool continues = welcome.Recovered || (welcome.HasLost && !numbersAnew);
            bool anew = numbersAnew || IsAnew(continues ? Epoch : welcome.Epoch, welcome.Seq);
            Epoch = welcome.Epoch;
            JoinedAt = welcome.Seq;
            first = after + 1;
            gapLast = null;
            if (anew) {
                // The range may begin below what was read: with several hosts that is uncertain too.
                if (welcome.HasLost) first = Math.Min(first, welcome.LostFirst);
                last = -1;
                start = welcome.Seq;
                return true;
            }
            last = after;
            start = null;
            if (!welcome.HasLost || welcome.LostLast.Value <= after) return false;
            gapLast = last = welcome.LostLast.Value;
            return true;
        }

        // Notes that a message came; returns whether it is new. There is a gap before it when first <= until.
        internal bool Take(long seq, out long first, out long until) {
            long expected = last + 1;
            if (start != null) {
                expected = Math.Max(expected, Math.Min(seq, start.Value + 1));
                start = null;
            }
            first = expected;
            until = seq - 1;
            if (seq < expected) return false;
            last = seq;
            return true;
        }

        bool IsAnew(string epoch, long seq) {
            // A last number below what was read: the server forgot messages, and gives their numbers again.
            return epoch != Epoch || seq < After;
        }
    }

    // The rooms that were entered, the last of them. A room that falls out begins as if it was never entered.
    sealed class Tracks {
        const int MaxRooms = 256;
        readonly Dictionary<string, Track> tracks = new Dictionary<string, Track>();
        readonly List<string> order = new List<string>();

        internal Track Get(string room) {
            Track found;
            return room != null && tracks.TryGetValue(room, out found) ? found : null;
        }

        internal void Respelled(string room, string now) {
            Track found = Get(room);
            if (found == null || room == now) return;
            tracks.Remove(room);
            order.Remove(room);
            tracks[now] = found;
        }

        internal Track Entered(string room) {
            Track track = Get(room) ?? new Track();
            tracks[room] = track;
            order.Remove(room);
            order.Add(room);
            if (order.Count > MaxRooms) {
                tracks.Remove(order[0]);
                order.RemoveAt(0);
            }
            return track;
        }
    }

    // Cuts a stream of bytes into payloads: two bytes of length, unsigned and big-endian, and then the payload.
    sealed class Frames {
        // Room for the longest frame and one more read.
        readonly byte[] buffer = new byte[2 + 65535 + 65536];
        int start, end;

        internal bool InFrame { get { return start < end; } }

        // Yields each whole payload. It is valid until the next step of the iteration.
        internal IEnumerable<ArraySegment<byte>> Feed(byte[] data, int count) {
            Buffer.BlockCopy(buffer, start, buffer, 0, end - start);
            end -= start;
            start = 0;
            Buffer.BlockCopy(data, 0, buffer, end, count);
            end += count;
            while (end - start >= 2) {
                int length = buffer[start] << 8 | buffer[start + 1];
                if (end - start < 2 + length) break;
                ArraySegment<byte> payload = new ArraySegment<byte>(buffer, start + 2, length);
                start += 2 + length;
                yield return payload;
            }
        }
    }

    // A payload of the server as one of the events; all are null for an object of a later version.
    sealed class Arrived {
        internal readonly Message Message;
        internal readonly Error Error;
        internal readonly Welcome Welcome;
        internal readonly Notice Joined, Left;
        internal readonly WhoPage Who;
        internal readonly RoomsPage Rooms;
        internal readonly Moderated Moderated;
        internal readonly int Size;
        // Characters of a welcome's name, room, epoch and token together. With a proof they still fit a join's frame.
        const int LongestSeat = 1024;

        internal Arrived(string code, string text) {
            Error = new Error { Code = code, Text = text, Times = 1, Proofs = new string[0] };
        }

        // Throws FormatException for what is not an object of this protocol. Unknown keys are ignored.
        internal Arrived(ArraySegment<byte> payload, bool named) {
            Size = payload.Count;
            Fields all = new Fields(JsonReader.Read(payload));
            string text = all.Text("message", false);
            Fields part = all.Part("error");
            if (text != null) {
                Message = new Message { Text = text };
                if (!named) return;
                Message.Sender = all.Text("from", false);
                Message.Room = all.Text("room", false);
                Message.Seq = all.Whole("seq");
                Message.At = all.Number("at");
                Message.To = all.Text("to", false);
            } else if (part != null) {
                Error = new Error {
                    Code = part.Text("code", true), Text = part.Text("text", true),
                    Times = Math.Max(1, part.Whole("times") ?? 1), Proofs = part.Texts("proofs", false)
                };
            } else if (!named) {
                return;
            } else if ((part = all.Part("welcome")) != null) {
                Welcome = new Welcome {
                    Name = part.Text("name", true), Room = part.Text("room", true), Seq = part.Count("seq"),
                    Epoch = part.Text("epoch", true), Members = part.Count("members"),
                    Recovered = part.Flag("recovered"), Token = part.Text("token", true),
                    Role = part.Text("role", false) ?? "member", Expires = part.Number("expires"),
                    Again = part.Flag("again")
                };
                int seat = Welcome.Name.Length + Welcome.Room.Length + Welcome.Epoch.Length + Welcome.Token.Length;
                if (seat > LongestSeat) throw new FormatException("the welcome is too long");
                Welcome.HasLost = part.Range("lost", out Welcome.LostFirst, out Welcome.LostLast);
            } else if ((part = all.Part("joined")) != null) {
                Joined = NoticeOf(part);
            } else if ((part = all.Part("left")) != null) {
                Left = NoticeOf(part);
                Left.Reason = part.Text("reason", false) ?? "";
            } else if ((part = all.Part("who")) != null) {
                Who = new WhoPage {
                    Room = part.Text("room", true), Names = part.Texts("names", true), Members = part.Count("members"),
                    Next = part.Text("next", false)
                };
            } else if ((part = all.Part("rooms")) != null) {
                List<RoomSize> sizes = new List<RoomSize>();
                foreach (Fields each in part.Parts("rooms")) {
                    sizes.Add(new RoomSize { Room = each.Text("room", true), Members = each.Count("members") });
                }
                Rooms = new RoomsPage { Rooms = sizes, Count = part.Count("count"), Next = part.Text("next", false) };
            } else if ((part = all.Part("moderated")) != null) {
                Moderated = new Moderated {
                    Action = part.Text("action", true), Target = part.Text("target", true),
                    Count = part.Whole("count") ?? 0
                };
            }
        }

        static Notice NoticeOf(Fields part) {
            return new Notice {
                Room = part.Text("room", true), Names = part.Texts("names", true), Count = part.Count("count"),
                Members = part.Count("members")
            };
        }
    }

    // The fields of a JSON object, each of the type that is asked for, else FormatException. Null counts as missing.
    sealed class Fields {
        readonly Dictionary<string, object> fields;

        internal Fields(object value) {
            fields = value as Dictionary<string, object>;
            if (fields == null) throw new FormatException("an object was expected");
        }

        object Get(string key, bool needed) {
            object value;
            if (!fields.TryGetValue(key, out value)) value = null;
            if (value == null && needed) throw new FormatException("\"" + key + "\" is missing");
            return value;
        }

        static T Of<T>(string key, object value) {
            if (!(value is T)) throw new FormatException("\"" + key + "\" has the wrong type");
            return (T)value;
        }

        internal string Text(string key, bool needed) {
            object value = Get(key, needed);
            return value == null ? null : Of<string>(key, value);
        }

        internal long? Whole(string key) {
            object value = Get(key, false);
            return value == null ? (long?)null : Of<long>(key, value);
        }

        internal long Count(string key) {
            return Of<long>(key, Get(key, true));
        }

        internal double? Number(string key) {
            object value = Get(key, false);
            if (value is long) return (long)value;
            return value == null ? (double?)null : Of<double>(key, value);
        }

        internal bool Flag(string key) {
            object value = Get(key, false);
            return value != null && Of<bool>(key, value);
        }

        internal Fields Part(string key) {
            object value = Get(key, false);
            return value == null ? null : new Fields(value);
        }

        internal List<Fields> Parts(string key) {
            List<Fields> parts = new List<Fields>();
            foreach (object each in Of<List<object>>(key, Get(key, true))) parts.Add(new Fields(each));
            return parts;
        }

        internal List<string> Texts(string key, bool needed) {
            List<string> texts = new List<string>();
            object value = Get(key, needed);
            if (value == null) return texts;
            foreach (object each in Of<List<object>>(key, value)) texts.Add(Of<string>(key, each));
            return texts;
        }

        // A pair of numbers, the last maybe null; returns false when the field is missing.
        internal bool Range(string key, out long first, out long? last) {
            first = 0;
            last = null;
            object value = Get(key, false);
            if (value == null) return false;
            List<object> pair = Of<List<object>>(key, value);
            if (pair.Count != 2) throw new FormatException("\"" + key + "\" is no pair");
            first = Of<long>(key, pair[0]);
            if (pair[1] != null) last = Of<long>(key, pair[1]);
            return true;
        }
    }

    // Writes one JSON object: Begin, Field or Name, End. A field that is null is left out.
    sealed class Json {
        internal static readonly UTF8Encoding Strict = new UTF8Encoding(false, true);
        const int MaxPayload = 65535;
        readonly StringBuilder text = new StringBuilder();
        bool comma;

        internal Json Begin() {
            text.Append('{');
            comma = false;
            return this;
        }

        internal Json End() {
            text.Append('}');
            comma = true;
            return this;
        }

        internal Json Name(string key) {
            if (comma) text.Append(',');
            comma = true;
            Quote(key);
            text.Append(':');
            return this;
        }

        internal Json Field(string key, string value) {
            if (value == null) return this;
            Name(key);
            Quote(value);
            return this;
        }

        internal Json Field(string key, long value) {
            Name(key);
            text.Append(value.ToString(CultureInfo.InvariantCulture));
            return this;
        }

        internal byte[] Frame() {
            byte[] payload;
            try {
                payload = Strict.GetBytes(text.ToString());
            } catch (EncoderFallbackException) {
                throw new ArgumentException("the text holds half of a surrogate pair");
            }
            if (payload.Length > MaxPayload) {
                throw new ArgumentException("the message takes " + payload.Length + " bytes, a frame " + MaxPayload);
            }
            byte[] frame = new byte[2 + payload.Length];
            frame[0] = (byte)(payload.Length >> 8);
            frame[1] = (byte)(payload.Length & 0xFF);
            payload.CopyTo(frame, 2);
            return frame;
        }

        void Quote(string value) {
            text.Append('"');
            foreach (char each in value) {
                if (each == '"' || each == '\\') text.Append('\\').Append(each);
                else if (each == '\n') text.Append("\\n");
                else if (each < ' ') text.AppendFormat(CultureInfo.InvariantCulture, "\\u{0:x4}", (int)each);
                else text.Append(each);
            }
            text.Append('"');
        }
    }

    // Reads JSON (RFC 8259) in UTF-8: objects as Dictionary, arrays as List, numbers as long or double. Strict: throws
    // FormatException for everything else, also for bad UTF-8, half of a surrogate pair, and deep nesting.
    sealed class JsonReader {
        internal const int MaxDepth = 64;
        readonly string text;
        int at;

        JsonReader(string text) {
            this.text = text;
        }

        internal static object Read(ArraySegment<byte> payload) {
            string text;
            try {
                text = Json.Strict.GetString(payload.Array, payload.Offset, payload.Count);
            } catch (ArgumentException) {
                throw new FormatException("not UTF-8");
            }
            JsonReader reader = new JsonReader(text);
            object value = reader.Value(0);
            reader.Space();
            if (reader.at < text.Length) throw reader.Wrong();
            return value;
        }

        FormatException Wrong() {
            return new FormatException("not JSON at character " + at);
        }

        char Next { get { return at < text.Length ? text[at] : '\0'; } }

        void Space() {
            while (Next == ' ' || Next == '\t' || Next == '\n' || Next == '\r') at++;
        }

        bool Skip(char wanted) {
            Space();
            if (Next != wanted) return false;
            at++;
            return true;
        }

        void Expect(char wanted) {
            if (!Skip(wanted)) throw Wrong();
        }

        object Value(int depth) {
            if (depth > MaxDepth) throw new FormatException("nested too deeply");
            Space();
            switch (Next) {
                case '{': return Object(depth);
                case '[': return Array(depth);
                case '"': return Text();
                case 't': return Word("true", true);
                case 'f': return Word("false", false);
                case 'n': return Word("null", null);
                default: return Number();
            }
        }

        object Word(string word, object value) {
            if (string.CompareOrdinal(text, at, word, 0, word.Length) != 0) throw Wrong();
            at += word.Length;
            return value;
        }

        Dictionary<string, object> Object(int depth) {
            Dictionary<string, object> fields = new Dictionary<string, object>();
            Expect('{');
            if (Skip('}')) return fields;
            do {
                Space();
                if (Next != '"') throw Wrong();
                string key = Text();
                Expect(':');
                fields[key] = Value(depth + 1);
            } while (Skip(','));
            Expect('}');
            return fields;
        }

        List<object> Array(int depth) {
            List<object> values = new List<object>();
            Expect('[');
            if (Skip(']')) return values;
            do {
                values.Add(Value(depth + 1));
            } while (Skip(','));
            Expect(']');
            return values;
        }

        object Number() {
            int begin = at;
            bool whole = true;
            if (Next == '-') at++;
            if (Next == '0') at++;
            else Digits();
            if (Next == '.') {
                whole = false;
                at++;
                Digits();
            }
            if (Next == 'e' || Next == 'E') {
                whole = false;
                at++;
                if (Next == '+' || Next == '-') at++;
                Digits();
            }
            string digits = text.Substring(begin, at - begin);
            CultureInfo invariant = CultureInfo.InvariantCulture;
            long number;
            if (whole && long.TryParse(digits, NumberStyles.AllowLeadingSign, invariant, out number)) return number;
            double real;
            bool read = double.TryParse(digits, NumberStyles.Float, invariant, out real);
            if (!read || double.IsInfinity(real)) throw Wrong();
            return real;
        }

        void Digits() {
            int begin = at;
            while (Next >= '0' && Next <= '9') at++;
            if (at == begin) throw Wrong();
        }

        string Text() {
            at++;
            StringBuilder result = new StringBuilder();
            while (true) {
                int begin = at;
                while (Next != '"' && Next != '\\' && Next >= ' ') at++;
                result.Append(text, begin, at - begin);
                if (Next == '"') break;
                if (Next != '\\') throw Wrong();
                at++;
                Escape(result);
            }
            at++;
            return result.ToString();
        }

        void Escape(StringBuilder result) {
            const string Escapes = "\"\\/bfnrt", Meanings = "\"\\/\b\f\n\r\t";
            if (Next != 'u') {
                int which = Escapes.IndexOf(Next);
                if (which < 0) throw Wrong();
                result.Append(Meanings[which]);
                at++;
                return;
            }
            char unit = Unit();
            result.Append(unit);
            if (char.IsLowSurrogate(unit)) throw Wrong();
            if (!char.IsHighSurrogate(unit)) return;
            if (Next != '\\') throw Wrong();
            at++;
            if (Next != 'u') throw Wrong();
            char second = Unit();
            if (!char.IsLowSurrogate(second)) throw Wrong();
            result.Append(second);
        }

        // Reads the u of an escape and its four digits.
        char Unit() {
            at++;
            int unit = 0;
            for (int digit = 0; digit < 4; digit++, at++) {
                int value = "0123456789abcdef".IndexOf(char.ToLowerInvariant(Next));
                if (value < 0) throw Wrong();
                unit = unit << 4 | value;
            }
            return (char)unit;
        }
    }
}
